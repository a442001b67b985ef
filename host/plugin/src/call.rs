//! One instance of a plugin and the calls into it: budgets before each call, and one clear error for whatever ends it.

use std::time::Instant;

use wasmtime::component::InstancePre;
use wasmtime::{Store, Trap, WasmBacktrace};

use crate::binding::{Fault, HANDED, Level, LogLine, State};
use crate::clean::clean;
use crate::error::{Place, Stack};
use crate::host::{Plugin, TICK};
use crate::{Kind, Limits, PluginError, Result};

/// Longest message of a plugin that is shown, in characters.
pub(crate) const MESSAGE: usize = 2000;

/// What a call may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Whose limits it has.
    pub(crate) kind: Kind,
    /// Samples, rows, ... of the call: each adds to the fuel.
    pub(crate) units: usize,
    /// Bytes that the plugin may hand over in one go.
    pub(crate) output: usize,
}

impl Budget {
    /// For `units` things that take up to `each` bytes in the answer.
    pub(crate) fn of(kind: Kind, units: usize, each: usize) -> Self {
        const MOST: usize = 128 << 20;
        Self { kind, units, output: units.saturating_mul(each).saturating_add(1 << 20).min(MOST) }
    }
}

/// An instance with its typed exports. After a failed call it is dead: it is dropped, never called again.
pub(crate) struct Live<B> {
    plugin: Plugin,
    store: Store<State>,
    exports: B,
    fuel: u64,
}

impl Plugin {
    /// A state for an instance of this plugin, without a graph.
    pub(crate) fn state(&self) -> State {
        State { files: self.0.files.clone(), http: self.0.http.clone(), ..State::default() }
    }

    /// A fresh instance. `call` names what it is for in errors.
    pub(crate) fn start<B>(
        &self,
        call: &str,
        mut state: State,
        budget: Budget,
        instantiate: impl FnOnce(&InstancePre<State>, &mut Store<State>) -> wasmtime::Result<B>,
    ) -> Result<Live<B>> {
        let limits = self.limits(budget);
        (state.max_calls, state.max_memory) = (limits.calls, limits.memory);
        let mut store = Store::new(self.0.prepared.engine(), state);
        store.limiter(|state| state);
        self.refuel(&mut store, budget);
        match instantiate(&self.0.prepared, &mut store) {
            Ok(exports) => Ok(Live { plugin: self.clone(), fuel: self.fuel_used(&store, budget), store, exports }),
            Err(error) => {
                self.report_log(&mut store);
                Err(self.fault(call, &error, store.into_data(), budget))
            }
        }
    }

    fn limits(&self, budget: Budget) -> Limits {
        self.0.host.options.limits.of(budget.kind)
    }

    fn fuel(&self, budget: Budget) -> u64 {
        let limits = self.limits(budget);
        limits.fuel.saturating_add(limits.fuel_each.saturating_mul(budget.units as u64))
    }

    fn refuel(&self, store: &mut Store<State>, budget: Budget) {
        store.set_hostcall_fuel(budget.output);
        store.data_mut().calls = 0;
        store.data_mut().handed = 0;
        if self.0.waits {
            let limit = self.limits(budget).deadline;
            let ticks = limit.as_millis().div_ceil(TICK.as_millis()).max(1);
            store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX / 2));
            store.data_mut().deadline = Some(Instant::now() + limit);
        } else {
            // It fails only where the engine has no fuel, and this one has.
            let _ = store.set_fuel(self.fuel(budget));
        }
    }

    fn fuel_used(&self, store: &Store<State>, budget: Budget) -> u64 {
        if self.0.waits { 0 } else { self.fuel(budget).saturating_sub(store.get_fuel().unwrap_or(0)) }
    }

    /// Hands what the plugin logged to whoever listens.
    fn report_log(&self, store: &mut Store<State>) {
        let state = store.data_mut();
        let (lines, unlogged) = (std::mem::take(&mut state.log), std::mem::take(&mut state.unlogged));
        let Some(listener) = &self.0.host.options.log else { return };
        for line in lines {
            listener(self.name(), line);
        }
        if unlogged > 0 {
            let message = format!("{unlogged} more lines in this call are not shown");
            listener(self.name(), LogLine { level: Level::Warn, message });
        }
    }

    /// Says what ended a call.
    fn fault(&self, call: &str, error: &wasmtime::Error, state: State, budget: Budget) -> PluginError {
        let (plugin, call, stack) = (self.name().to_owned(), call.to_owned(), stack(error));
        let place = Place(state.builder.as_ref().map_or_else(Box::default, |builder| builder.scope().into()));
        let limits = self.limits(budget);
        match state.fault {
            Some(Fault::Refused(error)) => PluginError::Build { plugin, error: Box::new(clean_build(error)), stack },
            Some(Fault::Aborted(message)) => PluginError::Panic { plugin, call, place, message, stack },
            Some(Fault::Calls) => PluginError::Calls { plugin, call, place, budget: limits.calls, stack },
            Some(Fault::Handed) => PluginError::Output { plugin, call, budget: HANDED >> 20, stack },
            Some(Fault::Memory { asked }) => {
                let mib = |bytes: usize| bytes.div_ceil(1 << 20);
                PluginError::Memory { plugin, call, place, asked: mib(asked), budget: mib(limits.memory), stack }
            }
            Some(Fault::Table) => {
                let reason = "it asked for tables of more than a million elements".into();
                PluginError::Trap { plugin, call, place, reason, stack }
            }
            None => match error.downcast_ref::<Trap>() {
                Some(Trap::OutOfFuel) => PluginError::Fuel { plugin, call, place, budget: self.fuel(budget), stack },
                Some(Trap::Interrupt) => {
                    let seconds = limits.deadline.as_secs_f64();
                    PluginError::Deadline { plugin, call, seconds, stack }
                }
                trap => {
                    let reason = trap.map_or_else(|| format!("{error:#}"), ToString::to_string);
                    if reason.contains("too much data is being copied") {
                        let budget = budget.output >> 20;
                        return PluginError::Output { plugin, call, budget, stack };
                    }
                    let reason = clean(reason.trim_start_matches("wasm trap: "), MESSAGE);
                    PluginError::Trap { plugin, call, place, reason, stack }
                }
            },
        }
    }
}

impl<B> Live<B> {
    /// Calls into the instance, with a new budget.
    ///
    /// # Errors
    /// When the call ends in a trap or out of its budget; the instance goes with it.
    pub(crate) fn call<T>(
        mut self,
        name: &str,
        budget: Budget,
        body: impl FnOnce(&B, &mut Store<State>) -> wasmtime::Result<T>,
    ) -> Result<(Self, T)> {
        self.plugin.refuel(&mut self.store, budget);
        let answer = body(&self.exports, &mut self.store);
        self.fuel += self.plugin.fuel_used(&self.store, budget);
        self.plugin.report_log(&mut self.store);
        match answer {
            Ok(answer) => Ok((self, answer)),
            Err(error) => Err(self.plugin.fault(name, &error, self.store.into_data(), budget)),
        }
    }

    /// The instance's state; the instance goes.
    pub(crate) fn into_state(self) -> State {
        self.store.into_data()
    }

    /// Fuel that all calls so far used, instantiating included.
    pub(crate) fn fuel(&self) -> u64 {
        self.fuel
    }
}

/// Runs `work` on pieces of `items` on all cores; answers in order. The pieces do not depend on how many cores there are, so
/// the answers do not either. A plugin that waits gets a thread for each piece, up to 16.
pub(crate) fn in_pieces<I: Sync, O: Send>(
    items: &[I],
    piece: usize,
    waits: bool,
    work: impl Fn(&[I]) -> O + Send + Sync,
) -> Vec<O> {
    use rayon::prelude::*;
    if items.len() <= piece {
        return vec![work(items)];
    }
    if !waits {
        return items.par_chunks(piece).map(&work).collect();
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let pieces: Vec<&[I]> = items.chunks(piece).collect();
    let done: Vec<std::sync::Mutex<Option<O>>> = pieces.iter().map(|_| std::sync::Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..pieces.len().min(16) {
            scope.spawn(|| {
                while let Some(at) =
                    Some(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).filter(|at| *at < pieces.len())
                {
                    let answer = work(pieces[at]);
                    *done[at].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(answer);
                }
            });
        }
    });
    let taken =
        |slot: std::sync::Mutex<Option<O>>| slot.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.into_iter().filter_map(taken).collect()
}

/// A build error may quote names that the plugin chose.
pub(crate) fn clean_build(mut error: swift_graph::BuildError) -> swift_graph::BuildError {
    error.scope = clean(&error.scope, 500);
    error.message = clean(&error.message, MESSAGE);
    error.operands = error.operands.iter().map(|operand| clean(operand, 500)).collect();
    error.hint = error.hint.map(|hint| clean(&hint, MESSAGE));
    error
}

/// The plugin's own functions, innermost first. What its language and the bindings put around them is left out.
fn stack(error: &wasmtime::Error) -> Stack {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Stack::default() };
    let names = backtrace.frames().iter().filter_map(|frame| frame.func_name());
    let names = names.map(|name| clean(&format!("{:#}", rustc_demangle::demangle(name)), 200));
    let noise = [
        "std::",
        "core::",
        "alloc::",
        "__rust",
        "rust_",
        "wit-component:",
        "wit_bindgen",
        "swift_sdk::bindings",
        "swift_sdk::runtime",
        "swift_sdk::allocate",
        "cabi_",
    ];
    let own = |name: &String| {
        let plain = name.trim_start_matches(['<', '&', '[']);
        !name.is_empty() && !noise.iter().any(|prefix| plain.starts_with(prefix)) && !name.contains("swift:")
    };
    Stack(names.filter(own).take(8).collect())
}
