//! Where a folder keeps its chat template: a file of its own (new), a JSON file of its own
//! (multimodal processors), or `tokenizer_config.json` (old).

use std::path::Path;

use serde_json::Value;

use super::json;
use crate::host::mapping::Bytes;
use crate::weights::error::{Error, Result};

/// Templates are a few thousand characters, the longest some 30 000.
const LONGEST: usize = 1 << 20;
const FIELD: &str = "chat_template";

pub(super) fn find(folder: &Path, tokenizer_config: Option<&Value>) -> Result<Option<String>> {
    let plain = folder.join("chat_template.jinja");
    if plain.exists() {
        let bytes = Bytes::map(&plain).map_err(|source| Error::open(&plain, source))?;
        if bytes.len() > LONGEST {
            let reason = format!("has {} bytes; {LONGEST} are allowed", bytes.len());
            return Err(Error::bad(&plain, "file", reason));
        }
        return match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(text.into())),
            Err(_) => Err(Error::bad(&plain, "file", "is not valid UTF-8")),
        };
    }
    let own = folder.join("chat_template.json");
    if let Some(value) = json::read_optional(&own)?
        && let Some(template) = in_object(&own, &value)?
    {
        return Ok(Some(template));
    }
    match tokenizer_config {
        Some(value) => in_object(&folder.join("tokenizer_config.json"), value),
        None => Ok(None),
    }
}

/// The field is a string, or a list of `{name, template}` of which "default" is the one to talk
/// with.
fn in_object(path: &Path, value: &Value) -> Result<Option<String>> {
    let template = match value.get(FIELD) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(template)) => Some(template.as_str()),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|one| one["name"] == "default");
            let Some(default) = default else { return Ok(None) };
            default["template"].as_str()
        }
        Some(_) => None,
    };
    match template {
        None => Err(Error::bad(path, FIELD, "is neither a string nor a list of named templates")),
        Some(template) if template.len() > LONGEST => Err(Error::bad(
            path,
            FIELD,
            format!("has {} bytes; {LONGEST} are allowed", template.len()),
        )),
        Some(template) => Ok(Some(template.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_form_of_the_field() {
        let path = Path::new("t.json");
        let found = |value: Value| in_object(path, &value);
        assert_eq!(found(json!({})).unwrap(), None);
        assert_eq!(found(json!({"chat_template": null})).unwrap(), None);
        assert_eq!(found(json!({"chat_template": "x"})).unwrap().unwrap(), "x");
        let list = json!({"chat_template": [
            {"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
        assert_eq!(found(list).unwrap().unwrap(), "d");
        assert_eq!(found(json!({"chat_template": []})).unwrap(), None);
        let error = found(json!({"chat_template": 3})).unwrap_err().to_string();
        assert!(error.starts_with("t.json: chat_template: is neither"), "{error}");
        assert!(found(json!({"chat_template": [{"name": "default"}]})).is_err());
    }
}
