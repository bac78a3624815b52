//! Where the runtime enters the gateway. Everything that needs no runtime belongs outside of this file, so that it is
//! checked and tested natively.

use worker::{Context, Env, Request, Response, Result, event};

/// Answers one request.
#[event(fetch)]
async fn fetch(request: Request, _env: Env, _context: Context) -> Result<Response> {
    match request.path().as_str() {
        "/healthz" => Response::ok("ok"),
        path => Response::error(format!("no route {path}"), 404),
    }
}
