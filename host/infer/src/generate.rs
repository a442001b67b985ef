//! Answers to a batch of prompts, each with a cache of its own, decoded together.
//!
//! When one answer ends, the next prompt takes its place. An answer does not depend on what stands beside it: it has
//! its own cache, its own random numbers and its own stop words. (On a GPU all answers of a call are drawn on the host, with
//! its generator, if one of them asks for what the GPU does not do.)

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use swift_engine::{Choice, InferSession, SequenceId};
use tokenizers::Tokenizer;

use crate::error::InferError;
use crate::sampler::Sampler;
use crate::settings::GenerationSettings;
use crate::text::{Detokenizer, StopWords};

/// Longest answer when neither the user nor the model sets an end.
const FALLBACK_NEW_TOKENS: usize = 2048;

/// One prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub prompt: Vec<u32>,
    pub settings: GenerationSettings,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end token or a stop word.
    Stop,
    /// `max_new_tokens`, or the model's context is full.
    Length,
    /// The caller broke off.
    Interrupted,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Without special tokens, without the stop word.
    pub text: String,
    /// Every new token, an end token included.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    pub finish_reason: FinishReason,
}

/// What happens while generating.
#[derive(Debug)]
pub enum Event<'a> {
    /// More text of an answer: whole characters.
    Text { index: usize, text: &'a str },
    /// An answer is done.
    Finished { index: usize, completion: &'a Completion },
}

/// All answers, in the order of the requests, and how long they took.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Interrupted requests have what they had; ones that never began have no tokens.
    pub completions: Vec<Completion>,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    /// Time of the steps that ran at least one prompt.
    pub prefill: Duration,
    /// Time of the steps that ran none.
    pub decode: Duration,
}

impl Generation {
    /// New tokens in a second, of the whole time.
    pub fn tokens_per_second(&self) -> f64 {
        let seconds = (self.prefill + self.decode).as_secs_f64();
        if seconds > 0.0 { self.new_tokens as f64 / seconds } else { 0.0 }
    }
}

/// A model with its tokenizer, ready to answer.
pub struct Generator {
    session: InferSession,
    tokenizer: Tokenizer,
    end_ids: Vec<u32>,
    max_length: Option<usize>,
}

/// An answer under way.
struct Active<'a> {
    index: usize,
    sequence: SequenceId,
    /// Fed in the next step: the prompt, then the last token.
    next: Vec<u32>,
    /// Prompt and answer, for the repetition penalty.
    context: Vec<u32>,
    sampler: Sampler,
    detokenizer: Detokenizer<'a>,
    stops: StopWords,
    stop_ids: Vec<u32>,
    limit: usize,
    completion: Completion,
}

impl Generator {
    /// `end_ids` end an answer; `max_length` is the model's context in tokens.
    pub fn new(session: InferSession, tokenizer: Tokenizer, end_ids: Vec<u32>, max_length: Option<usize>) -> Self {
        Self { session, tokenizer, end_ids, max_length }
    }

    /// The session, for logits.
    pub fn session_mut(&mut self) -> &mut InferSession {
        &mut self.session
    }

    /// Checks that a prompt fits, without running it.
    ///
    /// # Errors
    /// When it is empty or leaves no room for an answer. `index` is named in the message.
    pub fn check_prompt(&self, index: usize, prompt: &[u32]) -> Result<(), InferError> {
        if prompt.is_empty() {
            return Err(InferError::EmptyPrompt { index });
        }
        match self.max_length {
            Some(max_length) if prompt.len() >= max_length => {
                Err(InferError::PromptTooLong { index, tokens: prompt.len(), max_length })
            }
            _ => Ok(()),
        }
    }

    /// Answers all requests, at most `batch_size` at a time. `observe` may break off; what is there then is given back.
    ///
    /// # Errors
    /// When a prompt does not fit (before anything runs), logits are not finite, or the model fails.
    pub fn generate(
        &mut self,
        requests: &[Request],
        batch_size: usize,
        observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, InferError> {
        for (index, request) in requests.iter().enumerate() {
            self.check_prompt(index, &request.prompt)?;
        }
        let Self { session, tokenizer, end_ids, max_length } = self;
        let mut active: Vec<Active<'_>> = Vec::new();
        let outcome = run(session, tokenizer, end_ids, *max_length, requests, batch_size.max(1), observe, &mut active);
        for left in active {
            session.end(left.sequence);
        }
        outcome
    }
}

#[allow(clippy::too_many_lines, reason = "one loop, read top to bottom")]
fn run<'a>(
    session: &mut InferSession,
    tokenizer: &'a Tokenizer,
    end_ids: &[u32],
    max_length: Option<usize>,
    requests: &[Request],
    batch_size: usize,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    active: &mut Vec<Active<'a>>,
) -> Result<Generation, InferError> {
    let mut done: Vec<Option<Completion>> = vec![None; requests.len()];
    let mut waiting = requests.iter().enumerate();
    let (mut prefill, mut decode) = (Duration::ZERO, Duration::ZERO);
    let mut interrupted = false;
    while !interrupted {
        // Free places are filled with waiting prompts.
        let mut has_prompt = false;
        while active.len() < batch_size
            && let Some((index, request)) = waiting.next()
        {
            has_prompt = true;
            active.push(begin(session, tokenizer, end_ids, max_length, index, request)?);
        }
        if active.is_empty() {
            break;
        }
        let clock = Instant::now();
        let work: Vec<(SequenceId, &[u32])> = active.iter().map(|a| (a.sequence, a.next.as_slice())).collect();
        // The device chooses where it can: logits of a whole vocabulary are much to copy.
        let choices: Option<Vec<Choice>> =
            if session.can_choose() { active.iter().map(Active::choice).collect() } else { None };
        let tokens = match choices {
            Some(choices) => session.choose(&work, &choices)?,
            None => {
                let logits = session.extend(&work)?;
                active.iter_mut().zip(logits).map(|(answer, logits)| answer.draw(logits)).collect::<Result<_, _>>()?
            }
        };
        let mut finished = Vec::new();
        for (place, (answer, token)) in active.iter_mut().zip(tokens).enumerate() {
            if let Some(reason) = answer.take(token, observe, &mut interrupted)? {
                answer.completion.finish_reason = reason;
                finished.push(place);
            }
        }
        *(if has_prompt { &mut prefill } else { &mut decode }) += clock.elapsed();
        for place in finished.into_iter().rev() {
            let answer = active.remove(place);
            session.end(answer.sequence);
            let event = Event::Finished { index: answer.index, completion: &answer.completion };
            interrupted |= observe(event).is_break();
            done[answer.index] = Some(answer.completion);
        }
    }
    for answer in active.iter_mut() {
        // What the stop words held back is older than what the detokenizer did.
        let rest = answer.stops.finish() + &answer.detokenizer.finish()?;
        answer.completion.text.push_str(&rest);
        done[answer.index] = Some(answer.completion.clone());
    }
    let completions: Vec<Completion> = done
        .into_iter()
        .zip(requests)
        .map(|(completion, request)| {
            completion.unwrap_or_else(|| Completion {
                text: String::new(),
                tokens: Vec::new(),
                prompt_tokens: request.prompt.len(),
                finish_reason: FinishReason::Interrupted,
            })
        })
        .collect();
    Ok(Generation {
        prompt_tokens: completions.iter().map(|c| c.prompt_tokens).sum(),
        new_tokens: completions.iter().map(|c| c.tokens.len()).sum(),
        completions,
        prefill,
        decode,
    })
}

fn begin<'a>(
    session: &mut InferSession,
    tokenizer: &'a Tokenizer,
    end_ids: &[u32],
    max_length: Option<usize>,
    index: usize,
    request: &Request,
) -> Result<Active<'a>, InferError> {
    let settings = &request.settings;
    // A stop word that is a token (`<|im_end|>`) has no text when it is special: it ends the answer as a token.
    let stop_ids = settings.stop_words.iter().filter_map(|word| tokenizer.token_to_id(word));
    let room = max_length.map(|length| length - request.prompt.len());
    let wanted = settings.max_new_tokens.or(room).unwrap_or(FALLBACK_NEW_TOKENS);
    Ok(Active {
        index,
        sequence: session.start()?,
        next: request.prompt.clone(),
        context: request.prompt.clone(),
        sampler: Sampler::new(settings.sampling.clone(), settings.seed),
        detokenizer: Detokenizer::new(tokenizer),
        stops: StopWords::new(settings.stop_words.clone()),
        stop_ids: end_ids.iter().copied().chain(stop_ids).collect(),
        limit: room.map_or(wanted, |room| room.min(wanted)),
        completion: Completion {
            text: String::new(),
            tokens: Vec::new(),
            prompt_tokens: request.prompt.len(),
            finish_reason: FinishReason::Interrupted,
        },
    })
}

impl Active<'_> {
    /// How the device chooses the next token, if it can do what the settings ask.
    fn choice(&self) -> Option<Choice> {
        self.sampler.choice(self.completion.tokens.len() as u64)
    }

    /// Chooses the next token from logits.
    fn draw(&mut self, logits: Vec<f32>) -> Result<u32, InferError> {
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Err(InferError::NotFinite { index: self.index, position: self.completion.tokens.len() });
        }
        self.sampler.sample(logits, &self.context)
    }

    /// Takes the next token and gives out its text; says whether that ended the answer.
    fn take(
        &mut self,
        token: u32,
        observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
        interrupted: &mut bool,
    ) -> Result<Option<FinishReason>, InferError> {
        let position = self.completion.tokens.len();
        self.context.push(token);
        self.completion.tokens.push(token);
        self.next = vec![token];
        let mut reason = None;
        if self.stop_ids.contains(&token) {
            reason = Some(FinishReason::Stop);
        } else {
            let text = self.detokenizer.push(token)?;
            if self.show(&text, observe, interrupted) {
                return Ok(Some(FinishReason::Stop));
            }
            if position + 1 >= self.limit {
                reason = Some(FinishReason::Length);
            }
        }
        if reason.is_some() {
            let rest = self.detokenizer.finish()?;
            if self.show(&rest, observe, interrupted) {
                return Ok(Some(FinishReason::Stop));
            }
            let held = self.stops.finish();
            self.emit(&held, observe, interrupted);
        }
        Ok(reason)
    }

    /// Passes new text through the stop words; true when one of them ended the answer.
    fn show(
        &mut self,
        text: &str,
        observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
        interrupted: &mut bool,
    ) -> bool {
        let (shown, stopped) = self.stops.push(text);
        self.emit(&shown, observe, interrupted);
        stopped
    }

    fn emit(&mut self, text: &str, observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>, interrupted: &mut bool) {
        if !text.is_empty() {
            self.completion.text.push_str(text);
            *interrupted |= observe(Event::Text { index: self.index, text }).is_break();
        }
    }
}
