//! `swift infer`: a chat in the terminal, or the rows of datasets answered into a jsonl file.

use std::{
    collections::{HashMap, hash_map::Entry},
    io::{BufRead, IsTerminal},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Map;
use swift_data::{DatasetSpec, Encoder, Row, raw_rows};
use swift_engine::{InferSession, Placement};
use swift_graph::Graph;
use swift_hub::{Model, peft};
use swift_infer::{
    Command, Conversation, Event, FinishReason, GenerationFlags, GenerationSettings, Generator, InferError, Request,
    chat,
    results::{Prompt, ResultFile},
};

use super::{assemble, assemble::Traced, placement, set_threads};
use crate::{failure::FAILED, failure::Failure, plugins::Plugins, render, settings::InferSettings};

impl From<InferError> for Failure {
    fn from(error: InferError) -> Self {
        Self { code: FAILED, message: error.to_string(), hints: error.hint().into_iter().collect() }
    }
}

pub(crate) fn run(settings: &InferSettings) -> Result<(), Failure> {
    if settings.stream && !settings.datasets.is_empty() && settings.max_batch_size > 1 {
        let message = "answers that are written side by side cannot be streamed";
        return Err(Failure::new(message, "use `--stream false`, or `--max_batch_size 1`"));
    }
    set_threads(settings.num_threads)?;
    let found = placement::find(&settings.device)?;
    let traced = assemble::open(&settings.model.path, &settings.model)?;
    let dtype = settings.model.torch_dtype.as_deref();
    if !found.is_gpu() {
        assemble::check_dtype(&traced.model, dtype)?;
    }
    let placed = found.place(&settings.device, dtype, &traced.model)?;
    render::table(&[placed.header()]);
    let today = || jiff::ZonedDateTime::now().strftime("%Y-%m-%d").to_string();
    let date = settings.template.run_date.clone().unwrap_or_else(today);
    let model = traced.model.clone();
    let Traced { graph, plugins, .. } = traced;
    let encoder = assemble::encoder(&model, &settings.template, settings.rows.strict, &date, &plugins)?;
    let mut job = Job {
        settings,
        generation: GenerationSettings::resolve(&flags(settings, encoder.stops()), &model.generation)?,
        encoder,
        plugins,
        generator: Generator::new(
            session(graph, model.clone(), &settings.model.adapters, &placed.placement)?,
            model.tokenizer()?.clone(),
            model.eos_token_ids.clone(),
            model.max_length,
        ),
        stop: stop_flag()?,
    };
    if settings.datasets.is_empty() { job.chat() } else { job.answer_rows() }
}

/// The model's session with its adapter, if there is one.
fn session(
    graph: Graph,
    model: Arc<Model>,
    adapters: &[PathBuf],
    placement: &Placement,
) -> Result<InferSession, Failure> {
    match adapters {
        [] => Ok(InferSession::new(graph, model, placement)?),
        [folder] => {
            let adapted = peft::Adapter::open(folder)?.apply(&graph, &model.weights)?;
            let mut session = InferSession::new(adapted.graph, model, placement)?;
            for (name, values) in &adapted.values {
                session.set_values(name, values)?;
            }
            Ok(session)
        }
        _ => Err(Failure::new(
            "more than one adapter at a time is not built yet",
            "merge one of them first: `swift merge-lora`",
        )),
    }
}

fn flags(settings: &InferSettings, stops: &[String]) -> GenerationFlags {
    GenerationFlags {
        temperature: settings.temperature,
        top_k: settings.top_k.map(|k| k as u64),
        top_p: settings.top_p,
        min_p: settings.min_p,
        repetition_penalty: settings.repetition_penalty,
        max_new_tokens: settings.max_new_tokens.map(|n| n as u64),
        stop_words: settings.stop_words.iter().chain(stops).cloned().collect(),
        seed: settings.seed,
    }
}

/// Set by the first Ctrl-C while something is generated; the second leaves at once.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            #[expect(clippy::exit, reason = "a second Ctrl-C asks for it")]
            std::process::exit(130);
        }
    })
    .map_err(|e| {
        Failure::new(format!("cannot watch for Ctrl-C: {e}"), "start swift from a terminal or a job script")
    })?;
    Ok(stop)
}

struct Job<'a> {
    settings: &'a InferSettings,
    encoder: Encoder,
    plugins: Plugins,
    generation: GenerationSettings,
    generator: Generator,
    stop: Arc<AtomicBool>,
}

/// Lines a person types or a pipe brings.
enum Lines {
    Terminal(Box<rustyline::DefaultEditor>),
    Pipe(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Lines {
    fn open() -> Result<Self, Failure> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe(std::io::stdin().lock().lines()));
        }
        let editor = rustyline::DefaultEditor::new();
        editor.map(Box::new).map(Self::Terminal).map_err(|e| {
            Failure::new(
                format!("cannot read from the terminal: {e}"),
                "pipe the questions in: `echo Hello | swift infer ...`",
            )
        })
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<String>, Failure> {
        let failed = |e: String| Failure::new(format!("cannot read the next line: {e}"), "input must be UTF-8 text");
        match self {
            Self::Pipe(lines) => lines.next().transpose().map_err(|e| failed(e.to_string())),
            Self::Terminal(editor) => loop {
                match editor.readline(">>> ") {
                    Ok(line) => {
                        // A line that cannot be remembered can still be answered.
                        let _ = editor.add_history_entry(line.as_str());
                        return Ok(Some(line));
                    }
                    Err(rustyline::error::ReadlineError::Interrupted) => render::note("(/exit or Ctrl-D leaves)"),
                    Err(rustyline::error::ReadlineError::Eof) => return Ok(None),
                    Err(error) => return Err(failed(error.to_string())),
                }
            },
        }
    }
}

impl Job<'_> {
    /// Tokens of a prompt, checked against `--max_length` and the model's context.
    fn encode(&self, messages: &[swift_data::Message], row: Option<&Row>) -> Result<Vec<u32>, Failure> {
        let none = Map::new();
        let tools = row.and_then(|row| row.tools.as_deref());
        let prompt = self.encoder.encode_prompt(messages, tools, row.map_or(&none, |row| &row.chat_template_kwargs))?;
        if let Some(most) = self.settings.template.max_length.filter(|&most| prompt.len() > most) {
            let message = format!("the prompt has {} tokens, more than --max_length {most}", prompt.len());
            return Err(Failure::new(message, "shorten it, or raise --max_length"));
        }
        self.generator.check_prompt(0, &prompt)?;
        Ok(prompt)
    }

    fn chat(&mut self) -> Result<(), Failure> {
        let mut lines = Lines::open()?;
        let watched = matches!(lines, Lines::Terminal(_));
        if watched {
            render::note(chat::HELP);
        }
        let mut conversation = Conversation::new(self.settings.template.system.clone());
        while let Some(line) = lines.next()? {
            match Command::parse(&line) {
                Command::Nothing => {}
                Command::Exit => break,
                Command::Help => render::note(chat::HELP),
                Command::Clear => conversation.clear(),
                Command::System(text) => conversation.set_system(&text),
                Command::Unknown(word) => render::warning(&format!("there is no command /{word}: {}", chat::HELP)),
                Command::Say(text) => {
                    conversation.say(&text);
                    if let Err(failure) = self.answer(&mut conversation, watched) {
                        // A person can go on; a script should hear of it.
                        if !watched {
                            return Err(failure);
                        }
                        conversation.unsay();
                        render::failure(&failure);
                    }
                    if !watched && self.stop.load(Ordering::Relaxed) {
                        return Err(Failure::new("interrupted", "start again to answer the remaining lines"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Answers the conversation's last turn.
    fn answer(&mut self, conversation: &mut Conversation, watched: bool) -> Result<(), Failure> {
        let prompt = self.encode(&conversation.messages(), None)?;
        let request = Request { prompt, settings: self.generation.clone() };
        self.stop.store(false, Ordering::Relaxed);
        let (stop, stream) = (self.stop.clone(), self.settings.stream);
        let generation = self.generator.generate(&[request], 1, &mut |event| {
            if let Event::Text { text, .. } = event
                && stream
            {
                render::output(text);
            }
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let completion = &generation.completions[0];
        if !stream {
            render::output(&completion.text);
        }
        render::output("\n");
        if watched {
            let why = match completion.finish_reason {
                FinishReason::Stop => "",
                FinishReason::Length => ", cut off at its length",
                FinishReason::Interrupted => ", interrupted",
            };
            let rate = generation.tokens_per_second();
            render::note(&format!("({} tokens, {rate:.1} tokens/s{why})", completion.tokens.len()));
        }
        conversation.answer(&completion.text);
        Ok(())
    }

    fn answer_rows(&mut self) -> Result<(), Failure> {
        let (rows, columns) = self.rows()?;
        let path = self.result_path();
        let same = |dataset: &String| {
            path.canonicalize().is_ok_and(|path| Path::new(dataset).canonicalize().is_ok_and(|d| d == path))
        };
        if columns.keys().any(same) {
            return Err(Failure::new(
                format!("--result_path {} is the dataset itself", path.display()),
                "name another file: the results would replace the rows",
            ));
        }
        // Every prompt is encoded before the first is answered: a row that does not fit is known at once.
        let mut prompts = Vec::with_capacity(rows.len());
        for row in &rows {
            let prompt = Prompt::of(row);
            let named =
                |failure: Failure| Failure { message: format!("{}: {}", row.origin, failure.message), ..failure };
            if prompt.messages.is_empty() {
                return Err(named(Failure::new(
                    "there is nothing to answer",
                    "a row needs a message before the assistant's",
                )));
            }
            if !row.media.is_empty() {
                let message = "images, videos and audio are not built yet";
                return Err(named(Failure::new(message, "leave such rows out")));
            }
            let tokens = self.encode(&prompt.messages, Some(row)).map_err(named)?;
            prompts.push((prompt, tokens));
        }
        let mut file = ResultFile::create(&path)?;
        let mut watch = Watch::new(rows.len());
        let empty = Map::new();
        let mut failed = None;
        let (mut prompt_tokens, mut time) = (0, Duration::ZERO);
        for (part, chunk) in prompts.chunks(self.settings.write_batch_size).enumerate() {
            let first = part * self.settings.write_batch_size;
            let requests: Vec<Request> = (first..)
                .zip(chunk)
                .map(|(index, (_, tokens))| {
                    // Each row has random numbers of its own, whatever is answered beside it.
                    let seed = self.generation.seed.wrapping_add(index as u64);
                    Request { prompt: tokens.clone(), settings: GenerationSettings { seed, ..self.generation.clone() } }
                })
                .collect();
            let (stop, stream) = (self.stop.clone(), self.settings.stream);
            let generation = self.generator.generate(&requests, self.settings.max_batch_size, &mut |event| {
                match event {
                    Event::Text { text, .. } if stream => render::output(text),
                    Event::Text { .. } => {}
                    Event::Finished { index, completion } => {
                        if stream {
                            render::output("\n");
                        }
                        let (row, (prompt, _)) = (&rows[first + index], &chunk[index]);
                        let columns = columns.get(&*row.origin.file).and_then(|rows| rows.get(&row.origin.number));
                        let line = prompt.result(columns.unwrap_or(&empty), completion);
                        failed = file.add(first + index, line).err();
                        watch.row(completion.tokens.len());
                    }
                }
                if failed.is_some() || stop.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
            if let Some(error) = failed.take() {
                return Err(error.into());
            }
            prompt_tokens += generation.prompt_tokens;
            time += generation.prefill + generation.decode;
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        let new_tokens = watch.finish();
        let rate = new_tokens as f64 / time.as_secs_f64().max(1e-9);
        render::note(&format!(
            "{} answers in {}: {} prompt tokens, {} new tokens, {rate:.1} new tokens/s",
            file.lines(),
            path.display(),
            render::grouped(prompt_tokens as u64),
            render::grouped(new_tokens as u64),
        ));
        if file.lines() < rows.len() {
            let message = format!("interrupted: {} of {} rows are answered", file.lines(), rows.len());
            return Err(Failure::new(message, "run the same command again to answer all of them"));
        }
        Ok(())
    }

    /// All rows, and the columns of their files as they stand there; a loader's rows have none.
    fn rows(&self) -> Result<(Vec<Row>, HashMap<String, FileColumns>), Failure> {
        let options = assemble::load_options(&self.settings.rows, self.settings.seed, &self.plugins)?;
        let (mut rows, mut columns) = (Vec::new(), HashMap::new());
        for text in &self.settings.datasets {
            let spec = DatasetSpec::parse(text)?;
            let (dataset, by_loader) = assemble::dataset(&spec, &self.settings.rows, &options, &self.plugins)?;
            if dataset.ledger.dropped_rows() > 0 {
                render::warning(&dataset.ledger.to_string());
            }
            for row in dataset.rows.iter().filter(|_| !by_loader) {
                let file = row.origin.file.to_string();
                if let Entry::Vacant(entry) = columns.entry(file) {
                    let raw = raw_rows(Path::new(entry.key()))?;
                    entry.insert(raw);
                }
            }
            rows.extend(dataset.rows);
        }
        rows.truncate(self.settings.val_dataset_sample.unwrap_or(usize::MAX));
        if rows.is_empty() {
            return Err(Failure::new("there are no rows to answer", "check the files given with --val_dataset"));
        }
        Ok((rows, columns))
    }

    /// `--result_path`, else a new file in `infer_result` beside what was asked.
    fn result_path(&self) -> PathBuf {
        self.settings.result_path.clone().unwrap_or_else(|| {
            let asked = self.settings.model.adapters.first().unwrap_or(&self.settings.model.path);
            let folder = if asked.is_dir() { asked } else { asked.parent().unwrap_or(Path::new(".")) };
            let name = jiff::ZonedDateTime::now().strftime("%Y%m%d-%H%M%S").to_string();
            folder.join("infer_result").join(name + ".jsonl")
        })
    }
}

type FileColumns = HashMap<usize, Map<String, serde_json::Value>>;

/// Shows how many rows are answered: a bar for a person, else a line now and then.
struct Watch {
    bar: Option<ProgressBar>,
    rows: usize,
    answered: usize,
    tokens: usize,
    begun: Instant,
    shown: Instant,
}

impl Watch {
    fn new(rows: usize) -> Self {
        let bar = render::is_interactive().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").expect("the template is fixed");
            ProgressBar::with_draw_target(Some(rows as u64), ProgressDrawTarget::stderr()).with_style(style)
        });
        Self { bar, rows, answered: 0, tokens: 0, begun: Instant::now(), shown: Instant::now() }
    }

    fn row(&mut self, tokens: usize) {
        self.answered += 1;
        self.tokens += tokens;
        let rate = self.tokens as f64 / self.begun.elapsed().as_secs_f64().max(1e-9);
        if let Some(bar) = &self.bar {
            bar.set_position(self.answered as u64);
            bar.set_message(format!("{rate:.1} tokens/s"));
        } else if self.shown.elapsed() > Duration::from_secs(10) {
            self.shown = Instant::now();
            render::note(&format!("{}/{} rows answered, {rate:.1} tokens/s", self.answered, self.rows));
        }
    }

    /// Takes the bar away; gives the number of tokens.
    fn finish(self) -> usize {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.tokens
    }
}
