//! A Hugging Face folder: `config.json`, safetensors in one or many files, and what belongs to
//! the text side (tokenizer, chat template), which is found here and understood elsewhere.

mod index;
mod json;
mod template;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use index::Index;
pub use json::parse as parse_json;

use super::error::{Error, Quoted, Result};
use super::safetensors::SafeTensors;
use super::tensor::{Tensor, Tensors, bad_tensor};
use crate::host::mapping::Bytes;

pub const CONFIG: &str = "config.json";
const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";

/// A model in a folder, all its shards opened.
#[derive(Debug)]
pub struct HfFolder {
    path: PathBuf,
    config: Value,
    generation_config: Option<Value>,
    tokenizer_config: Option<Value>,
    chat_template: Option<String>,
    tensors: Tensors,
    parts: Vec<PathBuf>,
    file_bytes: u64,
}

impl HfFolder {
    pub fn open(path: &Path) -> Result<HfFolder> {
        let config = json::read(&path.join(CONFIG))?;
        let generation_config = json::read_optional(&path.join("generation_config.json"))?;
        let tokenizer_config = json::read_optional(&path.join("tokenizer_config.json"))?;
        let chat_template = template::find(path, tokenizer_config.as_ref())?;
        let mut folder = HfFolder {
            path: path.into(),
            config,
            generation_config,
            tokenizer_config,
            chat_template,
            tensors: Tensors::default(),
            parts: Vec::new(),
            file_bytes: 0,
        };
        folder.open_weights()?;
        Ok(folder)
    }

    fn open_weights(&mut self) -> Result<()> {
        let index = self.path.join(INDEX);
        let index = match index.exists() {
            true => Some(Index::read(&index)?),
            false => None,
        };
        let shards = match &index {
            Some(index) => index.shards().map(|shard| self.path.join(shard)).collect(),
            None => vec![self.only_file()?],
        };
        let mut tensors = Vec::new();
        for shard in shards {
            if let Some(index) = &index
                && !shard.exists()
            {
                return Err(Error::bad(
                    index.path(),
                    "weight_map",
                    format!("{} is missing; download it into the folder", shard.display()),
                ));
            }
            let shard = SafeTensors::open(&shard)?;
            self.file_bytes += shard.file_bytes();
            self.parts.push(shard.path().into());
            tensors.extend(shard.into_tensors());
        }
        self.tensors = Tensors::new(tensors)?;
        match index {
            Some(index) => index.check(&self.tensors),
            None => Ok(()),
        }
    }

    /// The one safetensors file of a folder without an index.
    fn only_file(&self) -> Result<PathBuf> {
        let whole = self.path.join(WHOLE);
        if whole.exists() {
            return Ok(whole);
        }
        let bad = |reason: String| Err(Error::bad(&self.path, "weights", reason));
        let mut found = names_ending(&self.path, &[".safetensors"])?;
        match (found.pop(), found.len()) {
            (Some(one), 0) => return Ok(self.path.join(one)),
            (Some(_), _) => {
                return bad(format!(
                    "there are several .safetensors files but no {INDEX} that says what is where; \
                     download it too"
                ));
            }
            (None, _) => {}
        }
        if !names_ending(&self.path, &[".bin", ".pth", ".pt"])?.is_empty() {
            return bad(
                "the folder holds PyTorch weights (.bin or .pth) only, which are programs and are \
                 not run here; convert them to safetensors (with transformers: \
                 `save_pretrained`)"
                    .into(),
            );
        }
        bad(format!("there is neither {WHOLE} nor {INDEX}; download the weights into the folder"))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn config(&self) -> &Value {
        &self.config
    }

    pub fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    pub fn tokenizer_config(&self) -> Option<&Value> {
        self.tokenizer_config.as_ref()
    }

    /// The chat template's source, from whichever of three places has it.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The bytes of a file beside the weights (`tokenizer.json`), if there is one.
    pub fn file(&self, name: &str) -> Result<Option<Bytes>> {
        let path = self.path.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        Bytes::map(&path).map(Some).map_err(|source| Error::open(&path, source))
    }

    /// The safetensors files.
    pub fn parts(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(PathBuf::as_path)
    }

    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor, or the sentence that it is missing.
    pub fn require(&self, name: &str) -> Result<&Tensor> {
        self.tensor(name).ok_or_else(|| bad_tensor(&self.path, name, "is missing"))
    }

    /// All tensors, shard by shard.
    pub fn tensors(&self) -> std::slice::Iter<'_, Tensor> {
        self.tensors.iter()
    }

    /// Bytes of all safetensors files together.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
}

/// Names in a folder with one of these endings, sorted.
pub(super) fn names_ending(folder: &Path, endings: &[&str]) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).map_err(|source| Error::open(folder, source))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| Error::open(folder, source))?;
        if let Ok(name) = entry.file_name().into_string()
            && endings.iter().any(|ending| name.ends_with(ending))
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Refuses a file name that could lead out of its folder.
fn plain_name<'a>(index: &Path, name: &'a str) -> Result<&'a str> {
    let plain = !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control)
        && name.len() <= 255;
    match plain {
        true => Ok(name),
        false => Err(Error::bad(
            index,
            "weight_map",
            format!("{} is not the name of a file beside the index", Quoted(name)),
        )),
    }
}
