/** The interface `swift:template/templates` over the author's templates. */

import { declared, log } from "../swift-sdk.js";
import { describe, fallible, find, infallible, made, settingsOf } from "./common.js";

let chosen;

/** The streaming parser of a template that has none of its own: it says what `parse` says, when all of it is there. */
class WholeParser {
  #context;
  #text = "";

  constructor(context) {
    this.#context = context;
  }

  push(text) {
    this.#text += text;
    return [];
  }

  finish() {
    const parsed = chosen.parse(this.#text, this.#context);
    const events = [];
    if (parsed.reasoning != null) events.push(["reasoning", parsed.reasoning]);
    if (parsed.content) events.push(["text", parsed.content]);
    for (const call of parsed.toolCalls ?? []) events.push(["tool-call", call], ["arguments", call.arguments]);
    for (const problem of parsed.problems ?? []) events.push(["problem", problem]);
    return events;
  }
}

class Parser {
  #parser;

  constructor(context) {
    this.#parser = infallible(() => chosen.parser?.(contextOf(context)) ?? new WholeParser(contextOf(context)))();
  }

  push(text) {
    return infallible(() => this.#parser.push(text).map(eventOf))();
  }

  finish() {
    return infallible(() => this.#parser.finish().map(eventOf))();
  }
}

export const templates = {
  templates: infallible(() => [...declared.template.values()].map((one) => ({ name: one.name, summary: one.summary ?? "" }))),

  claims(config, tokenizerConfig) {
    for (const one of declared.template.values()) {
      try {
        if (one.target.claims?.(JSON.parse(config), JSON.parse(tokenizerConfig))) return one.name;
      } catch (error) {
        log.warn(`${one.name} claims nothing: ${describe(error)}`);
      }
    }
    return null;
  },

  configure: fallible((name, config) => {
    const entry = find("template", name);
    // What the tokenizer says comes unasked.
    chosen = made(entry, settingsOf(entry, config, (one) => /_tokens?$/.test(one)));
  }),

  render: infallible((conversations, form) =>
    conversations.map((one) => {
      try {
        return { tag: "ok", val: chosen.render(conversationOf(one), form).map(segmentOf) };
      } catch (error) {
        return { tag: "err", val: describe(error) };
      }
    }),
  ),

  stops: infallible(() => chosen.stops()),

  parse: infallible((completions, context) => {
    const given = contextOf(context);
    return completions.map((one) => {
      const parsed = chosen.parse(one, given);
      return {
        content: parsed.content,
        reasoning: parsed.reasoning ?? null,
        toolCalls: (parsed.toolCalls ?? []).map((call) => ({ ...call, id: call.id ?? null })),
        problems: parsed.problems ?? [],
      };
    });
  }),

  Parser,
};

const argumentsOf = (pairs) => Object.fromEntries(pairs.map(([name, value]) => [name, JSON.parse(value)]));

const contextOf = (context) => ({ ...context, arguments: argumentsOf(context.arguments) });

const conversationOf = (conversation) => ({
  tools: conversation.tools,
  arguments: argumentsOf(conversation.arguments),
  date: conversation.date ?? null,
  messages: conversation.messages.map((message) => ({
    role: message.role,
    content: message.content.map((part) => ({ kind: part.tag, value: part.val })),
    reasoning: message.reasoning ?? null,
    toolCalls: message.toolCalls.map((call) => ({ ...call, id: call.id ?? null })),
    toolCallId: message.toolCallId ?? null,
    name: message.name ?? null,
    weight: weightOf(message),
  })),
});

/** Weight of the loss of what the assistant says in a message; 0 for every other role unless the row says otherwise. */
function weightOf(message) {
  if (message.loss === false) return 0;
  if (message.lossScale != null) return message.lossScale;
  return message.loss || message.role === "assistant" ? 1 : 0;
}

const segmentOf = (segment) => ({
  content: { tag: segment.kind, val: segment.value },
  weight: segment.weight ?? 0,
  message: segment.message ?? null,
});

function eventOf([kind, value]) {
  return { tag: kind, val: kind === "tool-call" ? { id: value.id ?? null, name: value.name } : value };
}
