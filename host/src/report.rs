//! What a running server tells the person who started it: one line each, on standard error.

/// Something that happened and needs nobody.
pub(crate) fn event(text: &str) {
    eprintln!("dunlin: {text}");
}

/// Something that somebody should look at.
pub(crate) fn error(text: &str) {
    eprintln!("dunlin: error: {text}");
}
