//! How headers are written down: one list of kinds and their elements, from which both directions follow.

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, SeqAccess};

/// The next element of a header, which must be there.
pub(super) fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| A::Error::custom("the header is too short"))
}

/// Passes over elements that a later version has added.
pub(super) fn finish<'de, A: SeqAccess<'de>>(seq: &mut A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Makes an enum whose variants are written as `[kind, elements...]`.
macro_rules! headers {
    (
        $(#[$doc:meta])* pub enum $name:ident {
            $($(#[$variant_doc:meta])* $kind:literal = $variant:ident {
                $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
            },)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant { $($(#[$field_doc])* $field: $type,)* },)*
        }

        impl $name {
            /// The frame that says this.
            ///
            /// # Errors
            /// Those of [`crate::Frame::new`].
            pub fn frame(&self, payload: bytes::Bytes) -> Result<crate::Frame, crate::FrameError> {
                crate::Frame::new(self, payload)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$variant { $($field),* } => {
                        ($kind as u8, $($field,)*).serialize(serializer)
                    })*
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Header;
                impl<'de> serde::de::Visitor<'de> for Header {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an array that begins with its kind")
                    }

                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<$name, A::Error> {
                        let kind: u8 = $crate::session::header::next(&mut seq)?;
                        let header = match kind {
                            $($kind => $name::$variant {
                                $($field: $crate::session::header::next(&mut seq)?,)*
                            },)*
                            other => {
                                return Err(serde::de::Error::custom(format!("there is no header of kind {other}")));
                            }
                        };
                        $crate::session::header::finish(&mut seq)?;
                        Ok(header)
                    }
                }
                deserializer.deserialize_seq(Header)
            }
        }
    };
}

/// Makes an enum as [`headers`] does, in which each variant's first element is the number `id`.
macro_rules! numbered {
    (
        $(#[$doc:meta])* pub enum $name:ident {
            $($(#[$variant_doc:meta])* $kind:literal = $variant:ident {
                $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
            },)*
        }
    ) => {
        $crate::session::header::headers! {
            $(#[$doc])* pub enum $name {
                $($(#[$variant_doc])* $kind = $variant {
                    /// The request or the flow that it is about; 0 where it is about none.
                    id: u64,
                    $($(#[$field_doc])* $field: $type,)*
                },)*
            }
        }

        impl $name {
            /// The id it carries.
            #[must_use]
            pub fn id(&self) -> u64 {
                match self {
                    $(Self::$variant { id, .. })|* => *id,
                }
            }
        }
    };
}

pub(super) use {headers, numbered};
