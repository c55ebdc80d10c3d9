//! `model.safetensors.index.json`: which tensor is in which shard.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::{json, plain_name};
use crate::weights::error::{Error, Quoted, Result, clipped};
use crate::weights::tensor::{Tensors, bad_tensor};

#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    shards: BTreeSet<Arc<str>>,
    /// Tensor and shard, in the file's order.
    weights: Vec<(String, Arc<str>)>,
}

impl Index {
    pub(super) fn read(path: &Path) -> Result<Index> {
        Index::parse(path, &json::bytes(path)?)
    }

    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Index> {
        #[derive(Deserialize)]
        struct File {
            weight_map: Pairs,
        }
        let file: File = serde_json::from_slice(bytes)
            .map_err(|e| Error::bad(path, "index", clipped(&e.to_string())))?;
        let Pairs { shards, weights } = file.weight_map;
        for shard in &shards {
            plain_name(path, shard)?;
        }
        if weights.is_empty() {
            return Err(Error::bad(path, "weight_map", "lists no tensor"));
        }
        Ok(Index { path: path.into(), shards, weights })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The shards' file names, sorted.
    pub fn shards(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().map(|shard| &**shard)
    }

    /// Every listed tensor must be there, in the shard that the index says.
    pub(super) fn check(&self, tensors: &Tensors) -> Result<()> {
        for (name, shard) in &self.weights {
            let found = tensors.get(name).is_some_and(|tensor| tensor.file.ends_with(&**shard));
            if !found {
                let reason = format!("the index says it is in {}, where it is not", Quoted(shard));
                return Err(bad_tensor(&self.path, name, reason));
            }
        }
        Ok(())
    }
}

/// The map, its shard names kept once each.
struct Pairs {
    shards: BTreeSet<Arc<str>>,
    weights: Vec<(String, Arc<str>)>,
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Pairs, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object that maps tensors to files")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Pairs, A::Error> {
                let mut shards = BTreeSet::new();
                let mut weights = Vec::new();
                while let Some((name, shard)) = map.next_entry::<String, String>()? {
                    let shard: Arc<str> = match shards.get(shard.as_str()) {
                        Some(shard) => Arc::clone(shard),
                        None => {
                            let shard: Arc<str> = shard.into();
                            shards.insert(shard.clone());
                            shard
                        }
                    };
                    weights.push((name, shard));
                }
                Ok(Pairs { shards, weights })
            }
        }
        from.deserialize_map(PairsVisitor)
    }
}
