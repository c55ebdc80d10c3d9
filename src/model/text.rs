//! A model's text side: its tokenizer and chat template, found where its container keeps them.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::template::{self, ChatTemplate, Message};
use super::tokenizer::{self, GgufVocab, JsonFile, JsonFiles, Kind, Special, Tokenizer};
use crate::weights::gguf::Metadata;
use crate::weights::{self, Gguf, HfFolder, Source};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    #[error(transparent)]
    Template(#[from] template::Error),
    #[error(
        "{file}: there is no tokenizer in it, so it can only be given token ids, as `penstock logits \
         --tokens` does"
    )]
    Missing { file: String },
}

pub struct Text {
    pub tokenizer: Rc<Tokenizer>,
    template: Option<ChatTemplate>,
    /// Names of the tokens that steer the model. In what users write they are only text.
    controls: Vec<String>,
}

impl Text {
    pub fn open(source: &Source) -> Result<Text, Error> {
        let (tokenizer, template) = match source {
            Source::Gguf(file) => from_gguf(file)?,
            Source::Folder(folder) => from_folder(folder)?,
        };
        let special = tokenizer.special();
        let name = |id: Option<u32>| id.map(|id| tokenizer.token_text(id));
        let (bos, eos) = (name(special.bos), name(special.eos));
        let template = template
            .map(|source| ChatTemplate::new(&source, bos.as_deref(), eos.as_deref()))
            .transpose()?;
        let controls = (0..tokenizer.vocab_size() as u32)
            .filter(|&id| tokenizer.kind(id) == Kind::Control)
            .map(|id| tokenizer.token_text(id).into_owned())
            .filter(|name| name.chars().nth(1).is_some())
            .collect();
        Ok(Text { tokenizer: Rc::new(tokenizer), template, controls })
    }

    pub fn template_source(&self) -> Option<&str> {
        self.template.as_ref().map(ChatTemplate::source)
    }

    /// Tokens of a text to be continued as it is: with what the model wants at its beginning,
    /// without what it wants at an end.
    pub fn continue_tokens(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut tokens = self.tokenizer.prefix().to_vec();
        tokens.extend(self.tokenizer.encode(text, Special::Plain, false)?);
        Ok(tokens)
    }

    /// Tokens of a conversation, up to where the model's next answer begins. A model without a
    /// chat template continues the bare text of the messages.
    pub fn chat_tokens(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        let plain;
        let template = match &self.template {
            Some(template) => template,
            None => {
                plain = ChatTemplate::plain();
                &plain
            }
        };
        let messages: Vec<Message> = messages.iter().map(|m| self.disarmed(m)).collect();
        let options = template::Options {
            add_generation_prompt: true,
            now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() as i64),
            ..template::Options::default()
        };
        let (rendered, guards) = unmarked(&template.render(&messages, &options)?);
        let mut tokens = self.tokenizer.encode_guarded(&rendered, &guards)?;
        // Templates of some files begin with the token, those of others leave it to the reader.
        let prefix = self.tokenizer.prefix();
        if !tokens.starts_with(prefix) {
            tokens.splice(0..0, prefix.iter().copied());
        }
        Ok(tokens)
    }

    /// A message in whose content each name of a control token has a [`MARK`] behind its first
    /// character. The template sees the marks (it will not find such a name, and counts one
    /// character more); the tokenizer does not.
    fn disarmed(&self, message: &Message) -> Message {
        let mut message = message.clone();
        if let serde_json::Value::String(content) = &mut message.content {
            *content = disarm(content, &self.controls);
        }
        message
    }
}

/// Goes through the template inside what is only text, to say where that came out. It is a
/// noncharacter, which no text may use for interchange; one that a message holds all the same is
/// dropped.
const MARK: char = '\u{fdd0}';

/// A rendered text without its marks, and the offsets at which they stood.
fn unmarked(rendered: &str) -> (String, Vec<usize>) {
    let mut text = String::with_capacity(rendered.len());
    let mut guards = Vec::new();
    for part in rendered.split_inclusive(MARK) {
        match part.strip_suffix(MARK) {
            Some(part) => {
                text.push_str(part);
                guards.push(text.len());
            }
            None => text.push_str(part),
        }
    }
    (text, guards)
}

fn disarm(content: &str, controls: &[String]) -> String {
    let mut content = content.replace(MARK, "");
    // Taking one name apart may leave another whole (names inside names), never make one.
    for name in controls {
        if let (true, Some(first)) = (content.contains(&**name), name.chars().next()) {
            let (head, tail) = name.split_at(first.len_utf8());
            content = content.replace(&**name, &format!("{head}{MARK}{tail}"));
        }
    }
    content
}

fn from_folder(folder: &HfFolder) -> Result<(Tokenizer, Option<String>), Error> {
    const TOKENIZER: &str = "tokenizer.json";
    let path = |name: &str| folder.path().join(name).display().to_string();
    let read = |name: &str| -> Result<_, Error> { Ok(folder.file(name)?.map(|b| (path(name), b))) };
    let Some(tokenizer) = read(TOKENIZER)? else {
        return Err(Error::Missing { file: path("") });
    };
    let others =
        [read("tokenizer_config.json")?, read("generation_config.json")?, read("config.json")?];
    let file = |(name, bytes)| JsonFile { name, bytes };
    let [tokenizer_config, generation_config, config] =
        others.each_ref().map(|f| f.as_ref().map(|(name, bytes)| file((name.as_str(), &**bytes))));
    let files = JsonFiles {
        tokenizer: file((&tokenizer.0, &tokenizer.1)),
        tokenizer_config,
        generation_config,
        config,
    };
    Ok((Tokenizer::from_json(&files)?, folder.chat_template().map(str::to_owned)))
}

fn from_gguf(file: &Gguf) -> Result<(Tokenizer, Option<String>), Error> {
    let meta = file.metadata();
    let name = file.path().display().to_string();
    let model = meta.string_opt("tokenizer.ggml.model")?.filter(|&model| model != "none");
    let Some(model) = model else { return Err(Error::Missing { file: name }) };
    let template = meta.string_opt("tokenizer.chat_template")?.map(str::to_owned);
    Ok((Tokenizer::from_gguf(&vocab(meta, name, model)?)?, template))
}

fn vocab(meta: &Metadata, file: String, model: &str) -> Result<GgufVocab, weights::Error> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    // -1 stands for "none" in some files.
    let id = |name: &str| -> Result<Option<u32>, weights::Error> {
        let key = key(&format!("{name}_token_id"));
        match meta.get(&key).and_then(|value| value.as_integer()) {
            Some(-1) => Ok(None),
            _ => meta.u32_opt(&key),
        }
    };
    let merges = meta.strings_opt(&key("merges"))?;
    Ok(GgufVocab {
        file,
        model: model.to_owned(),
        pre: meta.string_opt(&key("pre"))?.map(str::to_owned),
        tokens: meta.strings(&key("tokens"))?.map(<[u8]>::to_vec).collect(),
        scores: meta.f32s_opt(&key("scores"))?,
        types: meta.i32s_opt(&key("token_type"))?,
        merges: merges.map(|list| list.map(<[u8]>::to_vec).collect()),
        bos: id("bos")?,
        eos: id("eos")?,
        eot: id("eot")?,
        eom: id("eom")?,
        unknown: id("unknown")?,
        pad: id("padding")?,
        add_bos: meta.bool_opt(&key("add_bos_token"))?,
        add_eos: meta.bool_opt(&key("add_eos_token"))?,
        add_space_prefix: meta.bool_opt(&key("add_space_prefix"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_control_tokens_are_taken_apart() {
        let controls = ["<|im_end|>".to_string(), "<s>".to_string()];
        let shown = disarm("a<|im_end|>b <s><s> <|im_ \u{fdd0}", &controls).replace(MARK, "·");
        assert_eq!(shown, "a<·|im_end|>b <·s><·s> <|im_ ");
        assert_eq!(disarm("plain", &controls), "plain");
        let (text, guards) = unmarked(&disarm("é<s> <s>", &controls));
        assert_eq!((text.as_str(), guards), ("é<s> <s>", vec![3, 7]));
    }

    const CONTROLS: [&str; 5] = ["<s>", "</s>", "[I]", "[/I]", "[I][/I]"];

    fn text(vocab: GgufVocab, template: &str) -> Text {
        let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
        let controls = CONTROLS.map(str::to_owned).to_vec();
        let template = Some(ChatTemplate::new(template, Some("<s>"), Some("</s>")).unwrap());
        Text { tokenizer: Rc::new(tokenizer), template, controls }
    }

    /// A vocabulary as Llama 2's: pieces with scores, and bytes for all else.
    fn sentence_piece() -> GgufVocab {
        let mut tokens = vec![("<unk>".to_owned(), 2)];
        tokens.extend(CONTROLS.map(|name| (name.to_owned(), 3)));
        tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6)));
        let pieces = ["▁h", "</", "▁<", "s>", "▁x", "▁", "<", "/", "s", ">", "h", "i", "x"];
        tokens.extend(pieces.map(|piece| (piece.to_owned(), 1)));
        let scores = (0..tokens.len()).map(|at| -(at as f32)).collect();
        GgufVocab {
            model: "llama".into(),
            scores: Some(scores),
            types: Some(tokens.iter().map(|t| t.1).collect()),
            tokens: tokens.into_iter().map(|t| t.0.into_bytes()).collect(),
            unknown: Some(0),
            add_bos: Some(false),
            ..GgufVocab::default()
        }
    }

    /// A vocabulary as GPT-2's, of ASCII alone.
    fn byte_level() -> GgufVocab {
        let mut tokens: Vec<(String, i32)> =
            CONTROLS.map(|name| (name.to_owned(), 3)).into_iter().collect();
        tokens.extend(('!'..='~').chain(['Ġ', 'Ċ']).map(|c| (c.to_string(), 1)));
        tokens.extend(["</", "Ġ</", "hi", "Ġ<"].map(|name| (name.to_owned(), 1)));
        let merges = ["< /", "h i", "Ġ </", "Ġ <"];
        GgufVocab {
            model: "gpt2".into(),
            pre: Some("gpt-2".into()),
            types: Some(tokens.iter().map(|t| t.1).collect()),
            tokens: tokens.into_iter().map(|t| t.0.into_bytes()).collect(),
            merges: Some(merges.map(|merge| merge.as_bytes().to_vec()).to_vec()),
            ..GgufVocab::default()
        }
    }

    #[test]
    fn a_control_name_in_a_message_is_text_like_any_other() {
        let template = "{% for m in messages %}[I]{{ m.content | trim }}[/I]{% endfor %}";
        for vocab in [sentence_piece(), byte_level()] {
            let chat = text(vocab, template);
            let id = |name: &str| chat.tokenizer.find(name).unwrap();
            for content in
                ["hi </s> x", "</s>", "</s></s></s>", "hi[/I]", "</[I]s>", "hi", "<</s>", "s></s>"]
            {
                let said = format!("  {content}\n");
                let got = chat.chat_tokens(&[Message::new("user", said)]).unwrap();
                let plain = chat.tokenizer.encode(content, Special::Plain, false).unwrap();
                let expected = [vec![id("[I]")], plain, vec![id("[/I]")]].concat();
                assert_eq!(got, expected, "{content}");
                let controls =
                    got.iter().filter(|&&id| chat.tokenizer.kind(id) == Kind::Control).count();
                assert_eq!(controls, 2, "{content}");
            }
        }
        // Merges run on across the place of the guard.
        let chat = text(byte_level(), template);
        let got = chat.chat_tokens(&[Message::new("user", "hi </s>")]).unwrap();
        let names: Vec<_> = got.iter().map(|&id| chat.tokenizer.token_text(id)).collect();
        assert_eq!(names, ["[I]", "hi", "Ġ</", "s", ">", "[/I]"]);
    }

    #[test]
    fn what_the_template_writes_beside_a_control_name_stays_its_own() {
        // Message and template together spell the longer name `[I][/I]`.
        for vocab in [sentence_piece(), byte_level()] {
            let chat = text(vocab, "{% for m in messages %}[I]{{ m.content }}[/I]{% endfor %}");
            let id = |name: &str| chat.tokenizer.find(name).unwrap();
            for content in ["[/I]hi[I]", "[/I]", "[I]", "[I][/I]"] {
                let got = chat.chat_tokens(&[Message::new("user", content)]).unwrap();
                let plain = chat.tokenizer.encode(content, Special::Plain, false).unwrap();
                assert_eq!(got, [vec![id("[I]")], plain, vec![id("[/I]")]].concat(), "{content}");
            }
        }
    }
}
