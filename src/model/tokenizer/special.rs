//! Which tokens begin a text and which end an answer.

use std::collections::BTreeSet;

use super::pieces::Kind;

/// The ids with a role. Any of them may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// Ends a turn of a conversation, where that differs from the end of the text.
    pub eot: Option<u32>,
    pub unknown: Option<u32>,
    pub pad: Option<u32>,
    /// Every id after which generation stops.
    pub end_of_generation: BTreeSet<u32>,
}

/// Names that end a turn in the chat formats people use. Files often name only one end token
/// although the template makes the model write another.
const ENDS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<｜end▁of▁sentence｜>",
];

/// GLM opens the next speaker's turn instead of closing its own.
const GLM_MARK: &str = "[gMASK]";
const GLM_ENDS: &[&str] = &["<|user|>", "<|observation|>"];

/// Whether a token of this name is taken for a control token although its file does not say so.
pub(super) fn looks_like_control(name: &str) -> bool {
    ENDS.contains(&name)
}

impl SpecialIds {
    /// Adds to the ends of generation all that follow from names. `id_of` finds a token by name.
    pub(super) fn add_ends(&mut self, id_of: impl Fn(&str) -> Option<(u32, Kind)>) {
        let control = |name: &&str| match id_of(name) {
            Some((id, Kind::Control)) => Some(id),
            _ => None,
        };
        self.end_of_generation.extend(ENDS.iter().filter_map(&control));
        if id_of(GLM_MARK).is_some() {
            self.end_of_generation.extend(GLM_ENDS.iter().filter_map(&control));
        }
        // In formats that also have `return` and `call`, `end` closes a message, not the answer.
        let has = |name: &str| control(&name).is_some();
        let harmony = has("<|return|>") && has("<|call|>");
        let solar = has("<|calls|>") && has("<|flush|>");
        if (harmony || solar)
            && let Some(end) = control(&"<|end|>")
        {
            self.end_of_generation.remove(&end);
        }
        self.end_of_generation.extend(self.eos);
        self.end_of_generation.extend(self.eot);
    }
}
