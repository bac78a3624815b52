//! The console's static files: built into the binary, or read from a directory.

use std::path::{Component, Path, PathBuf};

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use crate::embedded;

/// Where the files come from.
#[derive(Clone, Debug)]
pub enum Console {
    /// What was built into this binary; may be nothing.
    Embedded,
    /// A directory, read at every request, so that a changed file shows at the next one.
    Directory(PathBuf),
}

/// What is at `/` when there is no console.
const WITHOUT: &str = "This dunlin was built without its console; run `cargo xtask build`, or name its files with --console DIR.\n";

/// Where `cargo xtask build` puts the console, from the top of the repository.
const BUILT: &str = "www/dist";

impl Console {
    /// The console that was built in, or, without one, the one that was built in this directory since.
    pub fn found() -> Self {
        let built = PathBuf::from(BUILT);
        if embedded::CONSOLE.is_empty() && built.is_dir() {
            Self::Directory(built)
        } else {
            Self::Embedded
        }
    }

    /// Whether there is a page at all.
    pub(crate) fn is_there(&self) -> bool {
        match self {
            Self::Embedded => !embedded::CONSOLE.is_empty(),
            Self::Directory(directory) => directory.join("index.html").is_file(),
        }
    }

    /// The file at the path of a URL; `None` if there is none.
    pub(crate) async fn response(&self, path: &str) -> Option<Response> {
        let path = path.trim_start_matches('/');
        let path = if path.is_empty() { "index.html" } else { path };
        let body = self.file(path).await;
        let body = match body {
            Some(body) => body,
            None if path == "index.html" => {
                let mut response = Response::new(Body::from(WITHOUT));
                *response.status_mut() = StatusCode::NOT_FOUND;
                return Some(response);
            }
            None => return None,
        };
        let mut response = Response::new(Body::from(body));
        let mime = mime_guess::from_path(path).first_raw();
        let mime = mime.unwrap_or("application/octet-stream");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(mime));
        // A console that stays after an upgrade would speak to a broker that it does not know.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Some(response)
    }

    async fn file(&self, path: &str) -> Option<Bytes> {
        match self {
            Self::Embedded => {
                let at = embedded::CONSOLE
                    .binary_search_by_key(&path, |(name, _)| name)
                    .ok()?;
                Some(Bytes::from_static(embedded::CONSOLE[at].1))
            }
            Self::Directory(directory) => {
                let path = Path::new(path);
                let inside = path
                    .components()
                    .all(|component| matches!(component, Component::Normal(_)));
                if !inside {
                    return None;
                }
                let file = directory.join(path);
                let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
                read.ok()?.ok().map(Bytes::from)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_gives_its_own_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("console");
        std::fs::create_dir_all(inside.join("assets")).unwrap();
        std::fs::write(folder.path().join("secret"), "s").unwrap();
        std::fs::write(inside.join("index.html"), "<p>").unwrap();
        std::fs::write(inside.join("assets/a.js"), "1").unwrap();
        let console = Console::Directory(inside);
        for (path, mime) in [("/", "text/html"), ("/assets/a.js", "text/javascript")] {
            let response = console.response(path).await.unwrap();
            assert_eq!(response.headers()[header::CONTENT_TYPE], mime);
        }
        for path in [
            "/../secret",
            "//../secret",
            "/assets/../../secret",
            "/assets",
            "/none",
        ] {
            assert!(console.response(path).await.is_none(), "{path}");
        }
    }

    #[tokio::test]
    async fn without_a_console_the_front_page_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let console = Console::Directory(folder.path().to_owned());
        let response = console.response("/").await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
}
