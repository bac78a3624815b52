//! The server: shards and a committer on one store, and one port for WebSocket, HTTP, server-sent events and console.

use core::convert::Infallible;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::serve::ListenerExt as _;
use dunlin_core::http::{self, Problem, Route, UNKNOWN_ROUTE};
use dunlin_core::{Claims, ConnectionId, Encoding, ErrorCode};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task;

use crate::access::Access;
use crate::clock::Clock;
use crate::console::Console;
use crate::drive::ShardSpan;
use crate::engine::Engines;
use crate::shard::{self, Connection, ShardHandle, ShardParts, Stopped};
use crate::store::Store;
use crate::{archives, committer, report, requests, websocket};

/// How long a stopping server waits for clients to go.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// The namespace by which an operator comes to every shard; nothing is ever stored under it on more than one.
const NOWHERE: &str = "default";

/// How long a shard may take to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// The most shards; each is a thread with an engine of its own.
pub const SHARDS_MAX: u32 = 256;

/// What a server is made of.
pub struct ServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How many shards, from 1 to [`SHARDS_MAX`]. May change with every start.
    pub shards: u32,
    /// What runs the broker.
    pub engines: Engines,
    /// Where rows live.
    pub store: Arc<dyn Store>,
    /// Who may come in.
    pub access: Access,
    /// What is at `/`.
    pub console: Console,
    /// The most connections of all shards together.
    pub connections_max: u32,
}

/// Held by everything that a stopping server waits for, and that takes the place of a connection.
#[derive(Debug)]
pub(crate) struct Admission {
    _held: mpsc::Sender<Infallible>,
    _place: OwnedSemaphorePermit,
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    /// Ends with the last [`Admission`].
    admitted: mpsc::Receiver<Infallible>,
    host: Arc<Host>,
    accepting: task::JoinHandle<()>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// What every request needs.
pub(crate) struct Host {
    shards: Vec<ShardHandle>,
    next_connection: AtomicU64,
    /// Everybody who is let in holds a copy, so that the end of the last is the end of all; taken away while draining.
    admission: Mutex<Option<mpsc::Sender<Infallible>>>,
    /// Room for connections, and how much there is in all.
    places: Arc<Semaphore>,
    connections_max: u32,
    access: Access,
    console: Console,
}

impl Server {
    /// Restores the brokers and opens the port.
    pub async fn start(options: ServerOptions) -> Result<Self> {
        let ServerOptions {
            listen,
            shards,
            engines,
            store,
            access,
            console,
            connections_max,
        } = options;
        if !(1..=SHARDS_MAX).contains(&shards) {
            bail!("--shards {shards} is not from 1 to {SHARDS_MAX}");
        }
        if access.is_open() && !listen.ip().is_loopback() {
            bail!(
                "{listen} can be reached from other machines, and no token is configured; add --token NAMESPACE=TOKEN, or listen on 127.0.0.1"
            );
        }
        // Before the store is touched: a port in use is the most common mistake.
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen on {listen}; stop what uses the port, or choose another with --listen")
        })?;
        let address = listener.local_addr()?;
        let (shards, threads) = task::spawn_blocking(move || {
            start_shards(shards, &engines, &store, &Handle::current())
        })
        .await??;
        let (admission, admitted) = mpsc::channel(1);
        let host = Arc::new(Host {
            shards,
            next_connection: AtomicU64::new(1),
            admission: Mutex::new(Some(admission)),
            places: Arc::new(Semaphore::new(connections_max as usize)),
            connections_max,
            access,
            console,
        });
        let (stop, stopped) = watch::channel(false);
        let accepting = task::spawn(accept(listener, Arc::clone(&host), stopped));
        Ok(Self {
            address,
            admitted,
            host,
            accepting,
            stop,
            threads,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes nothing new, tells every client to go elsewhere, waits for them within a bound, and makes everything
    /// durable.
    pub async fn shut_down(self) {
        let Self {
            host,
            mut admitted,
            accepting,
            stop,
            threads,
            ..
        } = self;
        host.admission().take();
        for shard in &host.shards {
            shard.drain().await;
        }
        drop(host);
        let finish = async {
            // Requests are still answered meanwhile: `/readyz` with no, all else with a refusal.
            admitted.recv().await;
            // Nobody listens any more if the server itself is gone, which is a stop as well.
            let _ = stop.send(true);
            let _ = accepting.await;
            // The threads end with the last handle of theirs.
            let _ = task::spawn_blocking(move || {
                for thread in threads {
                    let _ = thread.join();
                }
            })
            .await;
        };
        if tokio::time::timeout(DRAIN_WITHIN, finish).await.is_err() {
            report::error("some clients did not go in time and are cut off");
        }
    }
}

/// The shards' handles, and all threads: theirs, and the committer's as the last.
pub(crate) fn start_shards(
    count: u32,
    engines: &Engines,
    store: &Arc<dyn Store>,
    readers: &Handle,
) -> Result<(Vec<ShardHandle>, Vec<JoinHandle<()>>)> {
    let clock = Clock::start();
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    let notices_to_self: Vec<_> = senders
        .iter()
        .map(mpsc::UnboundedSender::downgrade)
        .collect();
    let (committer, thread) = committer::start(Arc::clone(store), senders)?;
    let mut shards = Vec::new();
    let mut threads = Vec::new();
    for (index, (notices, notices_to_self)) in (0..).zip(receivers.into_iter().zip(notices_to_self))
    {
        let (shard, thread) = shard::start(ShardParts {
            span: ShardSpan { index, count },
            engines: engines.clone(),
            store: Arc::clone(store),
            committer: committer.clone(),
            notices,
            notices_to_self,
            readers: readers.clone(),
            clock,
        })?;
        shards.push(shard);
        threads.push(thread);
    }
    threads.push(thread);
    Ok((shards, threads))
}

async fn accept(listener: TcpListener, host: Arc<Host>, mut stopped: watch::Receiver<bool>) {
    let listener = listener.tap_io(|stream| {
        // Frames are gathered before they are written, so waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
    });
    let router = Router::new().fallback(answer).with_state(host);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let serving = axum::serve(listener, service).with_graceful_shutdown(async move {
        // An error means that the server itself is gone, which is a stop as well.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    });
    if let Err(error) = serving.await {
        report::error(&format!("no more connections are accepted: {error}"));
    }
}

/// Answers one request.
async fn answer(
    State(host): State<Arc<Host>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Response {
    let origin = match host.access.check_origin(request.headers()) {
        Ok(origin) => origin.map(ToOwned::to_owned),
        Err(problem) => return requests::respond(problem.response()),
    };
    let mut response = match (request.method() == Method::OPTIONS, &origin) {
        (true, Some(_)) => StatusCode::NO_CONTENT.into_response(),
        _ => match route(&host, peer.ip(), request).await {
            Ok(response) => response,
            Err(problem) => requests::respond(problem.response()),
        },
    };
    if let Some(origin) = origin {
        allow_origin(&origin, response.headers_mut());
    }
    response
}

/// Lets pages of an allowed origin read the answer (the Fetch standard's CORS protocol).
fn allow_origin(origin: &str, headers: &mut HeaderMap) {
    let Ok(origin) = HeaderValue::from_str(origin) else {
        return;
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, http::METHODS),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, last-event-id, dunlin-key, dunlin-id, dunlin-ttl-ms, dunlin-delay-ms, dunlin-deliver-at, dunlin-priority, dunlin-durability, dunlin-wait-ms, dunlin-producer, dunlin-producer-sequence, dunlin-timeout-ms",
        ),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, http::EXPOSED_HEADERS),
        (header::VARY, "origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

async fn route(host: &Host, ip: IpAddr, request: Request<Body>) -> Result<Response, Problem> {
    let path = request.uri().path().to_owned();
    let Some(route) = Route::parse(request.method().as_str(), &path) else {
        return match host.console.response(&path).await {
            Some(response) => Ok(response),
            None => Err(Problem::new(
                404,
                UNKNOWN_ROUTE,
                format!("nothing is at {path}"),
            )),
        };
    };
    let route = route?;
    let query = request.uri().query().unwrap_or_default().to_owned();
    if route == Route::Namespaces {
        let headers = request.headers();
        let claims = host.access.operator(&route, NOWHERE, headers, &query)?;
        let clients = host.shards.iter().map(|shard| Client {
            host,
            shard,
            claims: claims.clone(),
            ip,
        });
        return requests::namespaces(clients, &query).await;
    }
    let Some(namespace) = route.namespace() else {
        return Ok(host.health(&route).await);
    };
    let claims = host
        .access
        .claims(&route, namespace, request.headers(), &query)?;
    let client = Client {
        host,
        shard: host.shard_of(namespace),
        claims,
        ip,
    };
    match route {
        Route::Connect { .. } => websocket::connect(client, request).await,
        Route::Command { action, .. } => requests::command(client, &action, request).await,
        Route::Subscribe { .. } => requests::subscribe(client, &query, request.headers()).await,
        Route::Export { namespace } => archives::export(client, namespace).await,
        Route::Import { .. } => archives::import(client, request.into_body()).await,
        Route::Healthz | Route::Readyz | Route::Namespaces => {
            unreachable!("these have no namespace")
        }
    }
}

impl Host {
    fn admission(&self) -> MutexGuard<'_, Option<mpsc::Sender<Infallible>>> {
        // Nothing can panic while it is held.
        self.admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_of(&self, namespace: &str) -> &ShardHandle {
        let count = u32::try_from(self.shards.len()).expect("the number of shards is bounded");
        &self.shards[ShardSpan::shard_of(namespace, count) as usize]
    }

    async fn health(&self, route: &Route) -> Response {
        let health = match route {
            Route::Healthz => Ok(()),
            _ => self.ready().await,
        };
        requests::respond(http::health_response(health.as_ref().err()))
    }

    /// Whether every shard takes new work. A shard without a broker does not answer in time.
    async fn ready(&self) -> Result<(), Problem> {
        if self.admission().is_none() {
            return Err(stopping());
        }
        for shard in &self.shards {
            let why = match tokio::time::timeout(READY_WITHIN, shard.ready()).await {
                Ok(Ok(Ok(()))) => continue,
                Ok(Ok(Err(unwritable))) => unwritable.0.to_string(),
                Ok(Err(Stopped)) => return Err(stopping()),
                Err(_) => "a broker is being restored".to_owned(),
            };
            let code = ErrorCode::StorageUnavailable.as_str();
            return Err(Problem::new(503, code, why));
        }
        Ok(())
    }
}

/// A client that has been let in.
pub(crate) struct Client<'h> {
    host: &'h Host,
    shard: &'h ShardHandle,
    claims: Claims,
    ip: IpAddr,
}

impl Client<'_> {
    /// Announces it to the shard of its namespace. The admission is to be held as long as its socket.
    pub(crate) async fn open(self, encoding: Encoding) -> Result<(Connection, Admission), Problem> {
        let held = self.host.admission().clone().ok_or_else(stopping)?;
        let place = Arc::clone(&self.host.places).try_acquire_owned();
        let place = place.map_err(|_| full(self.host.connections_max))?;
        let id = ConnectionId(self.host.next_connection.fetch_add(1, Ordering::Relaxed));
        let ip = match self.ip.to_canonical() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let opened = self.shard.open(id, encoding, self.claims, ip).await;
        let connection = opened.map_err(|Stopped| stopping())?;
        let admission = Admission {
            _held: held,
            _place: place,
        };
        Ok((connection, admission))
    }
}

/// The answer to a client for which there is no room.
fn full(connections_max: u32) -> Problem {
    let message = format!(
        "the server has as many connections as it may, {connections_max} (connections_max); try again later"
    );
    Problem {
        retry_after_ms: Some(1000),
        ..Problem::new(429, ErrorCode::LimitReached.as_str(), message)
    }
}

/// The answer to a request that comes while the server stops.
pub(crate) fn stopping() -> Problem {
    Problem::new(
        503,
        ErrorCode::Draining.as_str(),
        "the broker is stopping; try again later",
    )
}
