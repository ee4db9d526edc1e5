//! A message's headers as JSON.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};

/// Headers: an object from name to value. A header that repeats has a list of values. In JSON the order among
/// different names is not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(headers: I) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in &self.0 {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let mut map = serializer.serialize_map(Some(names.len()))?;
        for name in names {
            let values: Vec<&str> =
                self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect();
            match values.as_slice() {
                [one] => map.serialize_entry(name, one)?,
                many => map.serialize_entry(name, many)?,
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a header's value is a text, or a list of texts")]
        enum Values {
            One(String),
            Many(Vec<String>),
        }

        struct Headed;
        impl<'de> Visitor<'de> for Headed {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from header name to value")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Headers, M::Error> {
                let mut headers = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name.is_empty() {
                        return Err(M::Error::custom("a header's name is empty"));
                    }
                    match map.next_value()? {
                        Values::One(value) => headers.push((name, value)),
                        Values::Many(values) => {
                            headers.extend(values.into_iter().map(|value| (name.clone(), value)));
                        }
                    }
                }
                Ok(Headers(headers))
            }
        }
        deserializer.deserialize_map(Headed)
    }
}

impl utoipa::PartialSchema for Headers {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let values = OneOfBuilder::new().item(text()).item(ArrayBuilder::new().items(text()));
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("Header names with their values; a repeated header has a list."))
            .additional_properties(Some(AdditionalProperties::RefOr(Schema::OneOf(values.build()).into())))
            .into()
    }
}

impl utoipa::ToSchema for Headers {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_header_is_a_list_and_comes_back_as_it_was() {
        let headers: Headers = [("a", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        let text = serde_json::to_string(&headers).unwrap();
        assert_eq!(text, r#"{"a":["1","3"],"b":"2"}"#);
        let back: Headers = serde_json::from_str(&text).unwrap();
        assert_eq!(back.0.len(), 3);
        assert_eq!(back.get("a"), Some("1"));
    }

    #[test]
    fn a_value_that_is_no_text_is_refused() {
        for wrong in [r#"{"a": 1}"#, r#"{"a": [1]}"#, r#"["a"]"#, r#"{"": "x"}"#] {
            assert!(serde_json::from_str::<Headers>(wrong).is_err(), "{wrong}");
        }
    }
}
