//! The code that the contracts generate, and the state that stands behind a plugin's imports.

pub(crate) mod model;

use std::time::{Duration, Instant};

use swift_graph::{BuildError, Builder};
use wasmtime::{ResourceLimiter, Result};

use crate::capability::files::Files;
use crate::capability::http::Http;
use crate::clean::clean;

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
pub(crate) mod plugin {
    wasmtime::component::bindgen!({
        inline: "package swift:host; world imports {
            import swift:plugin/log@0.1.0;
            import swift:plugin/files@0.1.0;
            import swift:plugin/http@0.1.0;
        }",
        path: ["../../wit/plugin"],
        imports: { default: trappable },
    });
}

macro_rules! kind {
    ($module:ident, $world:literal, $folder:literal) => {
        #[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated")]
        pub(crate) mod $module {
            wasmtime::component::bindgen!({
                world: $world,
                path: ["../../wit/plugin", $folder],
                imports: { default: trappable },
                with: { "swift:plugin/log": crate::binding::plugin::swift::plugin::log },
            });
        }
    };
}

kind!(reward, "swift:reward/reward", "../../wit/reward");
kind!(metric, "swift:metric/metric", "../../wit/metric");
kind!(loader, "swift:dataset/loader", "../../wit/dataset");
kind!(preprocessor, "swift:dataset/preprocessor", "../../wit/dataset");
kind!(template, "swift:template/template", "../../wit/template");

use plugin::swift::plugin::{files, http, log};

/// Longest message of a panic, in characters.
const MESSAGE: usize = 2000;
/// Lines of log that one call may leave.
const LINES: usize = 100;
/// Bytes that one call may hand over in all its calls to the host: passing them costs the plugin nothing.
pub(crate) const HANDED: usize = 256 << 20;
/// Elements of all tables of an instance.
pub(crate) const TABLE_ELEMENTS: usize = 1_000_000;

/// How much a line of a plugin's log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the contract says")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// One line that a plugin wrote, cleaned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub level: Level,
    /// The text.
    pub message: String,
}

/// Why the host ended a call.
#[derive(Debug)]
pub(crate) enum Fault {
    Refused(BuildError),
    Aborted(String),
    Calls,
    Handed,
    Memory { asked: usize },
    Table,
}

/// What one instance works on; made for one call, or for as long as a reader or parser lives.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Only while tracing a model.
    pub(crate) builder: Option<Builder>,
    pub(crate) fault: Option<Fault>,
    pub(crate) calls: u64,
    pub(crate) max_calls: u64,
    /// Bytes that the plugin handed over in them.
    pub(crate) handed: usize,
    /// Bytes of all memories together, and their limit.
    pub(crate) memory: usize,
    pub(crate) max_memory: usize,
    pub(crate) table: usize,
    pub(crate) log: Vec<LogLine>,
    /// Lines that were too many.
    pub(crate) unlogged: u64,
    pub(crate) files: Files,
    pub(crate) http: Option<Http>,
    /// When the call must be over, for a plugin that may wait.
    pub(crate) deadline: Option<Instant>,
}

impl State {
    pub(crate) fn end<T>(&mut self, fault: Fault) -> Result<T> {
        self.fault = Some(fault);
        Err(wasmtime::Error::msg("the host ended the call"))
    }

    /// Counts a call to the host in which the plugin hands over this many bytes.
    fn count(&mut self, bytes: usize) -> Result<()> {
        self.calls += 1;
        self.handed = self.handed.saturating_add(bytes);
        if self.calls > self.max_calls {
            return self.end(Fault::Calls);
        }
        if self.handed > HANDED { self.end(Fault::Handed) } else { Ok(()) }
    }
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        // Over all memories: a component may have several.
        let asked = self.memory.saturating_add(desired.saturating_sub(current));
        if asked > self.max_memory {
            return self.end(Fault::Memory { asked });
        }
        self.memory = asked;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        self.table = self.table.saturating_add(desired.saturating_sub(current));
        if self.table > TABLE_ELEMENTS { self.end(Fault::Table) } else { Ok(true) }
    }
}

// These interfaces are types alone.
impl template::swift::template::types::Host for State {}
impl loader::swift::dataset::types::Host for State {}

impl log::Host for State {
    fn log(&mut self, level: log::Level, message: String) -> Result<()> {
        self.count(message.len())?;
        if self.log.len() >= LINES {
            self.unlogged += 1;
            return Ok(());
        }
        let level = match level {
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.log.push(LogLine { level, message: clean(&message, MESSAGE) });
        Ok(())
    }

    fn abort(&mut self, message: String) -> Result<()> {
        self.end(Fault::Aborted(clean(&message, MESSAGE)))
    }
}

impl files::Host for State {
    fn entries(&mut self, path: String) -> Result<std::result::Result<Vec<files::Entry>, String>> {
        self.count(path.len())?;
        let entries = self.files.entries(&path);
        Ok(entries.map(|entries| {
            let entry = |entry: crate::capability::files::Entry| files::Entry {
                name: entry.name,
                is_folder: entry.is_folder,
                size: entry.size,
            };
            entries.into_iter().map(entry).collect()
        }))
    }

    fn size(&mut self, path: String) -> Result<std::result::Result<u64, String>> {
        self.count(path.len())?;
        Ok(self.files.size(&path))
    }

    fn read(&mut self, path: String, offset: u64, length: u32) -> Result<std::result::Result<Vec<u8>, String>> {
        self.count(path.len())?;
        Ok(self.files.read(&path, offset, length))
    }
}

impl http::Host for State {
    fn send(&mut self, request: http::Request) -> Result<std::result::Result<http::Response, String>> {
        let headers: usize = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.count(request.url.len() + request.body.len() + headers)?;
        let Some(client) = &self.http else {
            return Ok(Err("the user granted this plugin no host to speak to".into()));
        };
        let mut limit = Duration::from_millis(request.timeout.into());
        if let Some(deadline) = self.deadline {
            limit = limit.min(deadline.saturating_duration_since(Instant::now()));
        }
        if limit.is_zero() {
            return Ok(Err("there is no time left for it".into()));
        }
        let answer = client.send(&request.method, &request.url, &request.headers, &request.body, limit);
        Ok(answer.map(|answer| http::Response { status: answer.status, headers: answer.headers, body: answer.body }))
    }
}
