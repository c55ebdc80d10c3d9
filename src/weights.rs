//! Floor 2: the bytes of a model. GGUF and safetensors files, tensors by name.
//!
//! Owns file formats and their defence: a bad file becomes a sentence naming file, field and
//! reason, never a panic, and never an allocation larger than the file's own size class. Knows no
//! family and no layer (that is `model`). Imports `math` (formats), `host` (mapped files), `base`.
//!
//! ```text
//! source      what a path holds, decided by content
//! gguf        GGUF v2 and v3, split or whole     folder       a Hugging Face folder
//!                                                safetensors  one file of it
//! tensor      a named tensor                     matrix       what a model keeps of it
//! sniff       what a file that is no model is    error        what can be wrong
//! residency   which slab has which slot (pure)   trace        recorded routing
//! pack        a model's panels on the disk       home         and in memory, for good
//! stage       the only mover: from a pack into slots, by residency's leave
//! ```
//!
//! A weight reaches memory in one of two ways. It *settles* at home, packed from its file when it
//! is first needed; or, of a model that has a pack, the trunk is read at the start and experts are
//! *staged*, into slots that they keep as long as residency lets them.
//!
//! The lead alone runs residency and stage, and every shard moves bytes for it. (Were each shard to
//! own a share of every slab, all would have to decide alike; they could, since decisions follow
//! from the routing alone, and a test holds residency to that.)

pub mod error;
pub mod folder;
pub mod gguf;
pub mod home;
pub mod matrix;
pub mod pack;
pub mod residency;
pub mod safetensors;
mod sniff;
pub mod source;
pub mod stage;
pub mod tensor;
pub mod trace;

pub use error::{Error, Result};
pub use folder::HfFolder;
pub use gguf::Gguf;
pub use matrix::{Matrix, vector};
pub use source::Source;
pub use tensor::{DType, Tensor};
