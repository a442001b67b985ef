//! Evaluation metrics: pieces of the data are taken in by instances of their own on all cores, and their states put together
//! in the data's order.

use crate::binding::State;
pub use crate::binding::metric::exports::swift::metric::metrics::{Answer, Example, Info as MetricInfo};
use crate::binding::metric::{Metric as Exports, MetricPre};
use crate::call::{Budget, Live, MESSAGE, in_pieces};
use crate::clean::clean;
use crate::{Kind, Plugin, PluginError, Result};

/// Examples that one instance takes in.
const PIECE: usize = 64;
/// Bytes of a state for one example; a state is an answer too, so it is bounded.
const EACH: usize = 64 << 10;
/// States that are kept before they are put together.
const STATES: usize = 64;
/// Bytes of a state.
const MAX_STATE: usize = 64 << 20;
/// Named numbers of a metric.
const MAX_NUMBERS: usize = 1000;

/// A metric, set up.
pub struct Metric {
    plugin: Plugin,
    prepared: MetricPre<State>,
    info: MetricInfo,
    config: String,
}

impl std::fmt::Debug for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metric").field("plugin", &self.plugin).field("name", &self.info.name).finish_non_exhaustive()
    }
}

impl Plugin {
    fn metric_exports(&self) -> Result<MetricPre<State>> {
        self.expect(Kind::Metric)?;
        MetricPre::new(self.0.prepared.clone()).map_err(|error| self.wrong_types(Kind::Metric, &error))
    }

    /// The metrics in this component.
    ///
    /// # Errors
    /// When it holds none, or fails at saying which.
    pub fn metrics(&self) -> Result<Vec<MetricInfo>> {
        let prepared = self.metric_exports()?;
        let budget = Budget::of(Kind::Metric, 64, 16 << 10);
        let live = self.start("metrics", self.state(), budget, |_, store| prepared.instantiate(store))?;
        let (_, mut infos) =
            live.call("metrics", budget, |exports, store| exports.swift_metric_metrics().call_metrics(store))?;
        for info in &mut infos {
            self.check_function(Kind::Metric, &info.name, &mut info.summary)?;
        }
        Ok(infos)
    }

    /// The metric of this name, set up with `config`, a JSON object.
    ///
    /// # Errors
    /// When the component has no such metric, or it refuses the settings.
    pub fn metric(&self, name: &str, config: &str) -> Result<Metric> {
        let infos = self.metrics()?;
        let names = infos.iter().map(|info| info.name.clone()).collect();
        let info = infos.into_iter().find(|info| info.name == name);
        let info = info.ok_or_else(|| self.no_function(Kind::Metric, name, names))?;
        let metric = Metric { plugin: self.clone(), prepared: self.metric_exports()?, info, config: config.into() };
        metric.start(0)?;
        Ok(metric)
    }
}

impl Metric {
    /// The component.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// What the plugin says about it.
    pub fn info(&self) -> &MetricInfo {
        &self.info
    }

    fn start(&self, examples: usize) -> Result<Live<Exports>> {
        let budget = Budget::of(Kind::Metric, examples, EACH);
        let live =
            self.plugin.start("configure", self.plugin.state(), budget, |_, store| self.prepared.instantiate(store))?;
        let (live, answer) = live.call("configure", budget, |exports, store| {
            exports.swift_metric_metrics().call_configure(store, &self.info.name, &self.config)
        })?;
        answer.map_err(|message| self.plugin.refused_settings(&self.info.name, &message))?;
        Ok(live)
    }

    fn failed(&self, call: &str, message: &str) -> PluginError {
        PluginError::Answer { plugin: self.plugin.name().into(), call: call.into(), what: clean(message, MESSAGE) }
    }

    fn state_of(&self, live: Live<Exports>) -> Result<Vec<u8>> {
        let budget = Budget { kind: Kind::Metric, units: STATES, output: MAX_STATE };
        let (_, state) =
            live.call("state", budget, |exports, store| exports.swift_metric_metrics().call_state(store))?;
        state.map_err(|message| self.failed("state", &message))
    }

    /// The state after these examples alone.
    fn piece(&self, examples: &[Example]) -> Result<Vec<u8>> {
        let live = self.start(examples.len())?;
        let (live, answer) =
            live.call("update", Budget::of(Kind::Metric, examples.len(), EACH), |exports, store| {
                exports.swift_metric_metrics().call_update(store, examples)
            })?;
        answer.map_err(|message| self.failed("update", &message))?;
        self.state_of(live)
    }

    /// An instance that took in all that `states` took in, in their order.
    fn merged(&self, states: &[Vec<u8>]) -> Result<Live<Exports>> {
        let mut live = self.start(states.len())?;
        for state in states {
            let (next, answer) = live.call("merge", Budget::of(Kind::Metric, PIECE, EACH), |exports, store| {
                exports.swift_metric_metrics().call_merge(store, state)
            })?;
            answer.map_err(|message| self.failed("merge", &message))?;
            live = next;
        }
        Ok(live)
    }

    /// Begins an evaluation.
    pub fn begin(&self) -> Evaluation<'_> {
        Evaluation { metric: self, states: Vec::new() }
    }

    /// The named numbers of these examples.
    ///
    /// # Errors
    /// See [`Evaluation::update`] and [`Evaluation::compute`].
    pub fn evaluate(&self, examples: &[Example]) -> Result<Vec<(String, f64)>> {
        let mut evaluation = self.begin();
        evaluation.update(examples)?;
        evaluation.compute()
    }
}

/// What a metric took in so far.
#[derive(Debug)]
pub struct Evaluation<'a> {
    metric: &'a Metric,
    states: Vec<Vec<u8>>,
}

impl Evaluation<'_> {
    /// Takes in examples, on all cores. Where it fails, it is as it was before.
    ///
    /// # Errors
    /// When the plugin refuses an example, traps, or runs out of its budget.
    pub fn update(&mut self, examples: &[Example]) -> Result<()> {
        if examples.is_empty() {
            return Ok(());
        }
        let waits = self.metric.plugin.0.waits;
        let states = in_pieces(examples, PIECE, waits, |examples| self.metric.piece(examples));
        let mut states: Vec<Vec<u8>> = states.into_iter().collect::<Result<_>>()?;
        if self.states.len() + states.len() > STATES {
            let all: Vec<Vec<u8>> = self.states.iter().cloned().chain(states).collect();
            states = vec![self.metric.state_of(self.metric.merged(&all)?)?];
            self.states.clear();
        }
        self.states.append(&mut states);
        Ok(())
    }

    /// All that was taken in, for going on later with [`Evaluation::resume`].
    ///
    /// # Errors
    /// When the plugin cannot put its states together.
    pub fn state(&self) -> Result<Vec<u8>> {
        self.metric.state_of(self.metric.merged(&self.states)?)
    }

    /// Takes in what [`Evaluation::state`] gave: of an earlier run, or of another process.
    ///
    /// # Errors
    /// When the plugin cannot read it.
    pub fn resume(&mut self, state: Vec<u8>) -> Result<()> {
        self.metric.merged(std::slice::from_ref(&state))?;
        self.states.push(state);
        Ok(())
    }

    /// The named numbers of all that was taken in.
    ///
    /// # Errors
    /// When the plugin fails, or gives a number that is none.
    pub fn compute(&self) -> Result<Vec<(String, f64)>> {
        let live = self.metric.merged(&self.states)?;
        let (_, numbers) = live.call("compute", Budget::of(Kind::Metric, MAX_NUMBERS, 1 << 10), |exports, store| {
            exports.swift_metric_metrics().call_compute(store)
        })?;
        let numbers = numbers.map_err(|message| self.metric.failed("compute", &message))?;
        if numbers.len() > MAX_NUMBERS {
            return Err(self.metric.failed("compute", &format!("it gave {} numbers", numbers.len())));
        }
        if let Some((name, number)) = numbers.iter().find(|(_, number)| !number.is_finite()) {
            return Err(self.metric.failed("compute", &format!("`{name}` is {number}")));
        }
        Ok(numbers.into_iter().map(|(name, number)| (clean(&name, 100), number)).collect())
    }
}
