//! Which pages may use the broker from a browser.

/// The pages that are let in besides those of the Worker's own host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Origins {
    /// No others.
    #[default]
    Own,
    /// Every page.
    Any,
    /// These.
    Listed(Vec<String>),
}

impl Origins {
    /// Reads a list as in `https://a.example https://b.example:8443`, or `*`; nothing means the own host alone.
    pub(crate) fn parse(list: &str) -> Result<Self, String> {
        let listed: Vec<String> = list
            .split([' ', ',', '\n'])
            .filter(|origin| !origin.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        match listed.as_slice() {
            [] => return Ok(Self::Own),
            [any] if any == "*" => return Ok(Self::Any),
            _ => {}
        }
        if let Some(wrong) = listed.iter().find(|origin| !is_origin(origin)) {
            return Err(format!(
                "DUNLIN_ORIGINS: {wrong:?} is not an origin, write it like https://app.example with no path, or * alone for all"
            ));
        }
        Ok(Self::Listed(listed))
    }

    /// Whether a page of `origin` may use the broker that it reached at `host`.
    pub(crate) fn allow(&self, origin: &str, host: &str) -> bool {
        let own = origin
            .split_once("://")
            .is_some_and(|(_, of)| of.eq_ignore_ascii_case(host));
        own || match self {
            Self::Own => false,
            Self::Any => true,
            Self::Listed(listed) => listed.iter().any(|one| one.eq_ignore_ascii_case(origin)),
        }
    }
}

fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, host)| {
        matches!(scheme, "http" | "https")
            && !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_host_is_always_allowed() {
        for list in ["", "*", "https://other.example"] {
            let origins = Origins::parse(list).expect(list);
            assert!(origins.allow("http://localhost:8787", "localhost:8787"));
        }
    }

    #[test]
    fn others_are_allowed_as_listed() {
        let origins = Origins::parse("https://a.example, https://B.example:8443").expect("a list");
        assert!(origins.allow("https://a.example", "dunlin.example"));
        assert!(origins.allow("https://b.example:8443", "dunlin.example"));
        assert!(!origins.allow("http://a.example", "dunlin.example"));
        assert!(!origins.allow("https://a.example.evil.example", "dunlin.example"));
        assert!(!origins.allow("null", "dunlin.example"));
        assert!(!Origins::default().allow("https://a.example", "dunlin.example"));
    }

    #[test]
    fn what_is_no_origin_is_refused_by_name() {
        for wrong in [
            "a.example",
            "https://a.example/",
            "ftp://a.example",
            "* https://a.example",
        ] {
            let refusal = Origins::parse(wrong).expect_err(wrong);
            assert!(refusal.contains("is not an origin"), "{refusal}");
        }
    }
}
