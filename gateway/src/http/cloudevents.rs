//! CloudEvents 1.0 in binary mode: attributes in `ce-` headers, the data as the body (CloudEvents HTTP protocol
//! binding 1.0.2, section 3.1).

use bytestring::ByteString;
use crossdock_topics::{Error, Message, Result};
use percent_encoding::percent_decode_str;

/// The attributes of one event, none when the request is not one.
#[derive(Default)]
pub(super) struct CloudEvent {
    attributes: Vec<(ByteString, ByteString)>,
}

impl CloudEvent {
    /// Takes one attribute, as its header writes it: what is not printable ASCII is percent-encoded.
    pub(super) fn attribute(&mut self, name: &str, value: &str) -> Result<()> {
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| Error::invalid(format!("ce-{name} is not percent-encoded UTF-8")))?;
        if self.get(name).is_some() {
            return Err(Error::invalid(format!("the header ce-{name} is there twice")).hint("send it once"));
        }
        self.attributes.push((format!("ce-{name}").into(), value.as_ref().into()));
        Ok(())
    }

    /// Says it of a message: every attribute is a header (`ce-type`); source and id together are what names an
    /// event, so they are the message's id; the partition key is its key. What the request said in so many
    /// words (`X-Message-Id`, `X-Key`) counts more.
    ///
    /// # Errors
    /// `InvalidArgument` when a required attribute is missing, or the version is another.
    pub(super) fn describe(self, message: &mut Message) -> Result<()> {
        if self.attributes.is_empty() {
            return Ok(());
        }
        let required = |name: &str| {
            self.get(name).filter(|value| !value.is_empty()).ok_or_else(|| {
                Error::invalid(format!("the CloudEvent has no ce-{name}"))
                    .hint("ce-specversion, ce-id, ce-source and ce-type are required")
            })
        };
        let version = required("specversion")?;
        if version != "1.0" {
            return Err(Error::invalid(format!("CloudEvents {version} is not understood"))
                .hint("send ce-specversion: 1.0"));
        }
        required("type")?;
        // A source is a URI reference: it has no space.
        let id = format!("{} {}", required("source")?, required("id")?);
        message.id.get_or_insert_with(|| id.into());
        if message.key.is_none() {
            message.key = self.get("partitionkey").map(ByteString::from);
        }
        if message.traceparent.is_none() {
            message.traceparent = self.get("traceparent").map(ByteString::from);
        }
        message.headers.extend(self.attributes);
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(header, _)| header.strip_prefix("ce-") == Some(name));
        found.map(|(_, value)| &**value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(attributes: &[(&str, &str)]) -> Result<Message> {
        let mut event = CloudEvent::default();
        for (name, value) in attributes {
            event.attribute(name, value)?;
        }
        let mut message = Message::default();
        event.describe(&mut message)?;
        Ok(message)
    }

    const GOOD: [(&str, &str); 4] =
        [("specversion", "1.0"), ("id", "17"), ("source", "/shop"), ("type", "order.made")];

    #[test]
    fn source_and_id_name_the_message_and_the_partition_key_is_its_key() {
        let mut attributes = GOOD.to_vec();
        attributes.extend([("partitionkey", "alice"), ("comment", "gr%C3%BCn 100%25")]);
        let message = of(&attributes).unwrap();
        assert_eq!(message.id.as_deref(), Some("/shop 17"));
        assert_eq!(message.key.as_deref(), Some("alice"));
        assert_eq!(message.header("ce-type"), Some("order.made"));
        assert_eq!(message.header("ce-comment"), Some("grün 100%"));
    }

    #[test]
    fn each_required_attribute_is_asked_for() {
        for missing in 0..GOOD.len() {
            let mut attributes = GOOD.to_vec();
            let (name, _) = attributes.remove(missing);
            assert!(of(&attributes).unwrap_err().message.contains(&format!("ce-{name}")));
        }
        let mut old = GOOD;
        old[0].1 = "0.3";
        assert!(of(&old).unwrap_err().message.contains("0.3"));
        assert!(of(&[GOOD[1], GOOD[1]]).unwrap_err().message.contains("twice"));
        assert!(of(&[("id", "%ff")]).is_err());
    }
}
