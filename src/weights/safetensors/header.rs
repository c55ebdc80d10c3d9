//! The JSON header, read straight into what is kept of it.

use std::fmt;

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::weights::error::Quoted;

/// More dimensions than any tensor has; bounds what a shape may cost.
const MOST_DIMENSIONS: usize = 8;
const LONGEST_NAME: usize = 1024;

pub(super) struct Listed {
    pub name: String,
    pub info: Info,
}

/// What the header says of one tensor. Serde refuses a field that is missing or comes twice.
#[derive(Deserialize)]
pub(super) struct Info {
    pub dtype: String,
    #[serde(deserialize_with = "shape")]
    pub shape: Vec<u64>,
    pub data_offsets: [u64; 2],
}

pub(super) fn parse(json: &[u8]) -> serde_json::Result<Vec<Listed>> {
    serde_json::from_slice::<Header>(json).map(|header| header.0)
}

struct Header(Vec<Listed>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Header, D::Error> {
        from.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object that maps names to tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut listed = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            // Notes of the writer: no reader needs them.
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if name.is_empty() || name.len() > LONGEST_NAME {
                return Err(A::Error::custom(format!(
                    "a tensor's name is {} bytes long; 1 to {LONGEST_NAME} are allowed",
                    name.len()
                )));
            }
            match map.next_value::<Info>() {
                Ok(info) => listed.push(Listed { name, info }),
                Err(e) => return Err(A::Error::custom(format!("tensor {}: {e}", Quoted(&name)))),
            }
        }
        Ok(Header(listed))
    }
}

fn shape<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    struct Shape;
    impl<'de> Visitor<'de> for Shape {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while let Some(n) = seq.next_element()? {
                if shape.len() == MOST_DIMENSIONS {
                    return Err(A::Error::custom(format!(
                        "a shape of more than {MOST_DIMENSIONS} dimensions"
                    )));
                }
                shape.push(n);
            }
            Ok(shape)
        }
    }
    from.deserialize_seq(Shape)
}
