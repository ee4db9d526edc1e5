//! Reads typed values out of a [`Node`], with errors that know their place.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use crate::fault::Place;
use crate::node::{Guess, Key, Node, Value};

/// Why a value cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// Where; the innermost part that is known.
    pub(crate) place: Option<Place>,
    /// The field that is not there, if that is why.
    pub(crate) missing: Option<&'static str>,
    pub(crate) message: String,
}

impl Unreadable {
    fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    fn mismatch(expected: &str, found: &Node) -> Self {
        Self::custom(format_args!("this should be {expected}, and is {}", found.kind())).at(found.place)
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Unreadable {}

impl serde::de::Error for Unreadable {
    fn invalid_value(found: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        // Numbers are expected under the names of the types that hold them.
        let expected = match expected.to_string().as_str() {
            "u8" => "a whole number from 0 to 255".into(),
            "u16" => "a whole number from 0 to 65535".into(),
            "u32" => "a whole number from 0 to 4294967295".into(),
            "u64" | "usize" => "a whole number, 0 or more".into(),
            other => other.to_owned(),
        };
        Self::custom(format_args!("{found} is not possible here; it should be {expected}"))
    }

    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { place: None, missing: None, message: message.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field), ..Self::custom(format_args!("{field} is missing")) }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("there is no field {field:?} here; known are {}", expected.join(", ")))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("{variant:?} is not known here; it can be {}", expected.join(", ")))
    }
}

macro_rules! numbers {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
            match self.value {
                Value::Scalar(_, Guess::Unsigned(_) | Guess::Signed(_)) => self.deserialize_any(visitor),
                _ => Err(Unreadable::mismatch("a whole number", self)),
            }
        }
    )* };
}

macro_rules! texts {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
            match &self.value {
                Value::Scalar(text, _) => visitor.visit_borrowed_str(text),
                _ => Err(Unreadable::mismatch("a text", self)),
            }
        }
    )* };
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Unreadable;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Scalar(text, guess) => match *guess {
                Guess::Text => visitor.visit_borrowed_str(text),
                Guess::Bool(value) => visitor.visit_bool(value),
                Guess::Unsigned(value) => visitor.visit_u64(value),
                Guess::Signed(value) => visitor.visit_i64(value),
                Guess::Float(value) => visitor.visit_f64(value),
            },
            Value::List(elements) => visitor.visit_seq(List(elements.iter())),
            Value::Map(entries) => visitor.visit_map(Map(entries.iter(), None)),
        }
    }

    numbers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
    deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 }

    texts! { deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
    deserialize_identifier }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        match self.value {
            Value::Scalar(_, Guess::Bool(value)) => visitor.visit_bool(value),
            _ => Err(Unreadable::mismatch("true or false", self)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        match self.value {
            Value::Scalar(_, Guess::Unsigned(_) | Guess::Signed(_) | Guess::Float(_)) => {
                self.deserialize_any(visitor)
            }
            _ => Err(Unreadable::mismatch("a number", self)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            _ => Err(Unreadable::mismatch("nothing", self)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        match &self.value {
            Value::List(elements) => visitor.visit_seq(List(elements.iter())),
            _ => Err(Unreadable::mismatch("a list", self)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Unreadable> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        match &self.value {
            Value::Map(entries) => visitor.visit_map(Map(entries.iter(), None)),
            _ => Err(Unreadable::mismatch("a mapping", self)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        match &self.value {
            Value::Scalar(text, _) => visitor.visit_enum(Variant(text, self.place, None)),
            Value::Map(entries) => {
                match entries.as_slice() {
                    [(key, value)] => visitor.visit_enum(Variant(&key.text, key.place, Some(value))),
                    _ => Err(Unreadable::custom("this should be one word, or one key with its value")
                        .at(self.place)),
                }
            }
            _ => Err(Unreadable::mismatch("one word, or one key with its value", self)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_unit()
    }
}

struct List<'de>(std::slice::Iter<'de, Node>);

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = Unreadable;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Unreadable> {
        let Some(element) = self.0.next() else { return Ok(None) };
        seed.deserialize(element).map(Some).map_err(|error| error.at(element.place))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Map<'de>(std::slice::Iter<'de, (Key, Node)>, Option<&'de Node>);

impl<'de> MapAccess<'de> for Map<'de> {
    type Error = Unreadable;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unreadable> {
        let Some((key, value)) = self.0.next() else { return Ok(None) };
        self.1 = Some(value);
        let text: StrDeserializer<'de, Unreadable> = key.text.as_str().into_deserializer();
        seed.deserialize(text).map(Some).map_err(|error| error.at(key.place))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Unreadable> {
        let Some(value) = self.1.take() else { return Err(Unreadable::custom("a value was read twice")) };
        seed.deserialize(value).map_err(|error| error.at(value.place))
    }
}

/// A variant of an enum: its name, where that stands, and what belongs to it.
struct Variant<'de>(&'de str, Place, Option<&'de Node>);

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Unreadable;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Unreadable> {
        let name: StrDeserializer<'de, Unreadable> = self.0.into_deserializer();
        Ok((seed.deserialize(name).map_err(|error| error.at(self.1))?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Unreadable;

    fn unit_variant(self) -> Result<(), Unreadable> {
        match self.2 {
            None => Ok(()),
            Some(value) => Err(Unreadable::custom(format_args!("{} has no value", self.0)).at(value.place)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Unreadable> {
        let value = self.value()?;
        seed.deserialize(value).map_err(|error| error.at(value.place))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Unreadable> {
        self.value()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        match &self.value()?.value {
            Value::Map(entries) => {
                MapAccessDeserializer::new(Map(entries.iter(), None)).deserialize_map(visitor)
            }
            _ => Err(Unreadable::mismatch("a mapping", self.value()?)),
        }
    }
}

impl<'de> Variant<'de> {
    fn value(&self) -> Result<&'de Node, Unreadable> {
        self.2.ok_or_else(|| {
            Unreadable::custom(format_args!("{0} needs a value, as in {{{0}: VALUE}}", self.0)).at(self.1)
        })
    }
}
