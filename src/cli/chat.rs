//! The conversation of `penstock run` on a terminal.

use std::io::{self, Write};

use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};

use super::Outcome;
use super::out::note;
use super::run::{Answer, say};
use super::signals::Stop;
use crate::engine::{End, Engine, Session, Settings};
use crate::model::{Message, Text};

const HELP: &str = "  /help           this list
  /reset          forget the conversation
  /retry          another answer to the last message
  /system TEXT    begin again with this system message
  /exit           leave (Ctrl-D does too)
  Ctrl-C          stops an answer, not the program; arrow keys bring back what you wrote";

enum Line<'a> {
    Say(&'a str),
    Help,
    Reset,
    Retry,
    System(&'a str),
    Exit,
    Unknown(&'a str),
}

impl Line<'_> {
    fn parse(line: &str) -> Line<'_> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match word {
            "/help" | "/?" => Line::Help,
            "/reset" | "/clear" => Line::Reset,
            "/retry" => Line::Retry,
            "/system" => Line::System(rest.trim()),
            "/exit" | "/quit" | "/bye" => Line::Exit,
            _ if word.starts_with('/') && !word[1..].contains('/') => Line::Unknown(word),
            _ => Line::Say(line),
        }
    }
}

struct Conversation<'a> {
    engine: &'a mut Engine,
    text: &'a Text,
    settings: Settings,
    raw: bool,
    system: Option<String>,
    messages: Vec<Message>,
    /// What was said last, for models that only continue text.
    last: String,
    /// Kept from turn to turn, so that only what is new is computed.
    session: Option<Session>,
}

pub async fn chat(
    model: &str,
    engine: &mut Engine,
    text: &Text,
    settings: Settings,
    system: Option<String>,
    raw: bool,
) -> Outcome {
    // The line editor keeps to the terminal where standard output goes to a file.
    let config = Config::builder().auto_add_history(true).behavior(Behavior::PreferTerm).build();
    let mut editor = DefaultEditor::with_config(config)?;
    // After the editor, which takes SIGINT for itself, so that this comes first. (Its signal-hook
    // feature would leave the signal alone, and then hangs on keys that come faster than it reads.)
    let stop = &Stop::on_interrupt()?;
    note!("{model}: /help lists commands, Ctrl-D leaves");
    let raw = raw || text.template_source().is_none();
    if raw {
        note!("(no chat template: every line is continued as it is)");
    }
    let mut talk = Conversation {
        engine,
        text,
        settings,
        raw,
        system,
        messages: Vec::new(),
        last: String::new(),
        session: None,
    };
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                note!("(Ctrl-D or /exit leaves)");
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(other) => return Err(other.into()),
        };
        // A Ctrl-C that nobody was waiting for must not stop the next answer.
        stop.take();
        match Line::parse(&line) {
            Line::Say("") => {}
            Line::Say(said) => {
                let last = std::mem::replace(&mut talk.last, said.to_string());
                talk.messages.push(Message::new("user", said));
                if !talk.answer(stop).await? {
                    talk.messages.pop();
                    talk.last = last;
                }
            }
            Line::Help => note!("{HELP}"),
            Line::Reset => talk.reset(),
            Line::Retry => {
                let before = talk.messages.pop_if(|m| m.role == "assistant");
                if talk.messages.is_empty() {
                    note!("(there is nothing to answer yet)");
                    continue;
                }
                if talk.settings.sampling.temperature == 0.0 {
                    note!("(at temperature 0 there is only one answer)");
                }
                let seed = &mut talk.settings.sampling.seed;
                *seed = seed.wrapping_add(1);
                if !talk.answer(stop).await? {
                    talk.messages.extend(before);
                }
            }
            Line::System(said) => {
                talk.reset();
                talk.system = (!said.is_empty()).then(|| said.to_string());
            }
            Line::Exit => return Ok(()),
            Line::Unknown(word) => note!("({word} is not a command; /help lists them)"),
        }
    }
}

impl Conversation<'_> {
    fn reset(&mut self) {
        self.messages.clear();
        note!("(the conversation begins anew)");
    }

    fn tokens(&self) -> Outcome<Vec<u32>> {
        if self.raw {
            return Ok(self.text.continue_tokens(&self.last)?);
        }
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
        Ok(self.text.chat_tokens(&messages)?)
    }

    /// Answers the last message. What goes wrong with it is said, and `false` returned.
    async fn answer(&mut self, stop: &Stop) -> Outcome<bool> {
        let settings = self.settings.clone();
        let opened = self.tokens().and_then(|tokens| match self.session.as_mut() {
            Some(session) => Ok(self.engine.reopen(session, tokens, settings)?),
            None => {
                self.session = Some(self.engine.open(tokens, settings)?);
                Ok(())
            }
        });
        if let Err(error) = opened {
            note!("penstock: {error}");
            if self.messages.len() > 1 {
                note!("(/reset begins the conversation anew)");
            }
            return Ok(false);
        }
        let Some(session) = &mut self.session else { return Ok(false) };
        let mut answer = Answer::default();
        let mut out = io::stdout().lock();
        let show = |voice, piece: &str| say(&mut out, voice, piece);
        let written = answer.write(self.engine, session, stop, show).await;
        writeln!(out)?;
        match written {
            Ok(()) => {}
            Err(error) if error.is::<io::Error>() => return Err(error),
            Err(error) => {
                note!("penstock: {error}");
                self.session = None;
                return Ok(false);
            }
        }
        note!("{}", answer.line());
        if answer.end == Some(End::ContextFull) {
            note!("(the context is full: /reset begins anew, --context makes more room)");
        }
        self.messages.push(Message::new("assistant", answer.text));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_begin_with_a_slash_and_paths_do_not_look_like_them() {
        assert!(matches!(Line::parse(" /help "), Line::Help));
        assert!(matches!(Line::parse("/system be brief"), Line::System("be brief")));
        assert!(matches!(Line::parse("/nonsense"), Line::Unknown("/nonsense")));
        assert!(matches!(Line::parse("/usr/bin is a folder"), Line::Say(_)));
        assert!(matches!(Line::parse("hello /help"), Line::Say("hello /help")));
    }
}
