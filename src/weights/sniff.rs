//! What a file is that is not the model it was taken for.

/// The first bytes that are looked at.
const LOOKED_AT: usize = 512;

/// Names a kind of file that people often hold in place of a model, and says what to do.
pub(super) fn stranger(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("the file is empty; download it again");
    }
    let head = &bytes[..bytes.len().min(LOOKED_AT)];
    let text = head.trim_ascii_start().to_ascii_lowercase();
    if text.starts_with(b"version https://git-lfs") {
        return Some(
            "this is a Git LFS pointer, not the file it stands for; fetch it with `git lfs pull`",
        );
    }
    if text.starts_with(b"<!doctype") || text.starts_with(b"<html") {
        return Some(
            "this is a web page, not a model; download the file itself (its raw link), not the \
             page about it",
        );
    }
    if text.starts_with(b"<?xml") {
        return Some("this is an XML page (a server's error, perhaps), not a model; look into it");
    }
    match head {
        [b'l' | b'f' | b'a', b'm' | b'l', b'g', b'g', ..] | [b't', b'j', b'g', b'g', ..] => Some(
            "this is a GGML file from before GGUF; convert the original model to GGUF again with \
             a current converter",
        ),
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Some(
            "this is a PyTorch pickle or a zip archive; convert the model to safetensors or GGUF",
        ),
        [0x1f, 0x8b, ..] => Some("this is a gzip archive; unpack it first"),
        _ => None,
    }
}

/// The first bytes of a file as text, for a message.
pub(super) fn first_bytes(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(8)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_named() {
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
            (b"\n <!DOCTYPE html><html>", "web page"),
            (b"tjgg\x01\0\0\0", "before GGUF"),
            (b"lmgg\x01\0\0\0", "before GGUF"),
            (b"fmgg\x01\0\0\0", "before GGUF"),
            (b"PK\x03\x04", "PyTorch"),
        ] {
            assert!(stranger(bytes).unwrap().contains(word), "{word}");
        }
        assert_eq!(stranger(b"GGUF\x03\0\0\0"), None);
        assert_eq!(stranger(b"\x40\0\0\0\0\0\0\0{"), None);
    }
}
