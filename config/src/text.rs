//! The texts of a document's scalars, as they are written.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::node::{Guess, Node, Value};

/// Reads the same document once more, for the texts of what looked like something else.
pub(crate) struct Texts<'n>(pub(crate) &'n mut Node);

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match &self.0.value {
            Value::Null | Value::Scalar(_, Guess::Text) => IgnoredAny::deserialize(deserializer).map(drop),
            Value::Scalar(..) => deserializer.deserialize_str(self),
            Value::List(_) => deserializer.deserialize_seq(self),
            Value::Map(_) => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what was there before")
    }

    fn visit_str<E>(self, read: &str) -> Result<(), E> {
        if let Value::Scalar(text, _) = &mut self.0.value {
            read.clone_into(text);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if let Value::List(elements) = &mut self.0.value {
            for element in elements {
                list.next_element_seed(Texts(element))?;
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if let Value::Map(entries) = &mut self.0.value {
            for (_, value) in entries {
                if map.next_key::<IgnoredAny>()?.is_some() {
                    map.next_value_seed(Texts(value))?;
                }
            }
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
