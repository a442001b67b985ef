/** A chat template: ChatML with reasoning in <think> and tool calls as Hermes writes them. */

import { template } from "../sdk/swift-sdk.js";

const toolText = (tools) => `# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
${tools.join("\n")}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>`;

/** What is `special` becomes one token; what is text never does, whatever it looks like. */
class ChatML {
  /** Header, text and end of each message; only what the assistant says is trained. */
  render({ messages, tools, arguments: given }, form) {
    const segments = [];
    const system = messages[0]?.role === "system";
    if (tools.length > 0 && !system) segments.push(...block(null, "system", toolText(tools), 0));
    messages.forEach((message, index) => {
      let role = message.role;
      let text = textOf(message);
      if (index === 0 && system && tools.length > 0) text += `\n\n${toolText(tools)}`;
      else if (role === "tool") [role, text] = ["user", `<tool_response>\n${text}\n</tool_response>`];
      else if (role === "assistant") text = answer(message);
      segments.push(...block(index, role, text, message.weight));
    });
    if (form === "prompt") {
      segments.push({ kind: "special", value: "<|im_start|>" }, { kind: "text", value: "assistant\n" });
      if (given.enable_thinking === false) segments.push({ kind: "text", value: "<think>\n\n</think>\n\n" });
    }
    return segments;
  }

  /** What ends an answer. */
  stops() {
    return ["<|im_end|>"];
  }

  /** Reasoning first, then text and tool calls. */
  parse(completion, context) {
    let text = context.prefix + completion;
    let reasoning = null;
    const toolCalls = [];
    const problems = [];
    if (text.startsWith("<think>")) {
      const end = text.indexOf("</think>");
      reasoning = text.slice("<think>".length, end < 0 ? undefined : end).replace(/^\n+|\n+$/g, "") || null;
      text = end < 0 ? "" : text.slice(end + "</think>".length).replace(/^\n+/, "");
      if (end < 0) problems.push("the reasoning does not end");
    }
    const content = text.replace(/\n?<tool_call>\n?([^]*?)\n?<\/tool_call>/g, (whole, call) => {
      try {
        const value = JSON.parse(call);
        if (typeof value.name !== "string" || value.arguments === undefined) throw new TypeError();
        toolCalls.push({ name: value.name, arguments: JSON.stringify(value.arguments) });
        return "";
      } catch {
        problems.push("a tool call is not a JSON object with name and arguments");
        return whole;
      }
    });
    if (content.includes("<tool_call>") && problems.length === 0) problems.push("a tool call does not end");
    return { content, reasoning, toolCalls, problems };
  }
}

template("chatml", { summary: "ChatML with reasoning and tool calls" }, ChatML);

/** One message. */
function block(message, role, text, weight) {
  return [
    { kind: "special", value: "<|im_start|>", weight: 0, message },
    { kind: "text", value: `${role}\n`, weight: 0, message },
    { kind: "text", value: text, weight, message },
    { kind: "special", value: "<|im_end|>", weight, message },
    { kind: "text", value: "\n", weight: 0, message },
  ];
}

/** The text of a message; this template has no place for media. */
function textOf(message) {
  const medium = message.content.find((part) => part.kind !== "text");
  if (medium) throw new Error(`this template has no place for ${medium.kind}`);
  return message.content.map((part) => part.value).join("");
}

/** What the assistant says: `parse` is the inverse. */
function answer(message) {
  const text = textOf(message);
  const calls = message.toolCalls.map(
    (call) => `<tool_call>\n{"name": ${JSON.stringify(call.name)}, "arguments": ${call.arguments}}\n</tool_call>`,
  );
  const thought = message.reasoning ? `<think>\n${message.reasoning}\n</think>\n\n` : "";
  return thought + [...(text === "" ? [] : [text]), ...calls].join("\n");
}
