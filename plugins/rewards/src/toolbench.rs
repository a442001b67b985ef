//! Whether a completion calls the tool that the solution calls, in the text form of ReAct: `Action:` and `Action Input:`.

use std::cmp::Ordering;

use swift_sdk::Json;

use crate::rouge::{Sentences, rouge_l};
use crate::words::{Numbering, strip};

const ACTION: &str = "Action:";
const INPUT: &str = "Action Input:";
const OBSERVATION: &str = "Observation:";

/// The same action, and an input that is fully right.
pub(crate) fn is_right(completion: &str, solution: &str) -> bool {
    let mut completion = completion.to_owned();
    if completion.ends_with(OBSERVATION) {
        let end = completion.find(OBSERVATION).unwrap_or(completion.len());
        completion = strip(&completion[..end]).to_owned();
    }
    let completion = completion.replace("<|endoftext|>", "").replace("<|im_end|>", "");
    let (action, input) = call(strip(&completion));
    let (wanted_action, wanted_input) = call(solution);
    action == wanted_action && inputs_agree(wanted_input, input)
}

/// The last action of a text and its input.
fn call(text: &str) -> (&str, &str) {
    let input = text.rfind(INPUT).map_or("{}", |at| strip(&text[at + INPUT.len()..]));
    let action = match text.rfind(ACTION) {
        None => "none",
        Some(at) => {
            let action = strip(&text[at + ACTION.len()..]);
            action.find(INPUT).map_or(action, |end| strip(&action[..end]))
        }
    };
    (action, input)
}

/// Two objects with an F1 of 1 over their keys and values, or two other texts with a ROUGE-L of at least 0.2.
fn inputs_agree(wanted: &str, said: &str) -> bool {
    match (Json::parse(wanted), Json::parse(said)) {
        (Ok(Json::Object(wanted)), Ok(Json::Object(said))) => {
            // Everything else than full agreement, half credit for a wrong value included, is not 1.
            same_object(&wanted, &said)
        }
        (Err(_), Err(_)) => {
            let mut numbering = Numbering::default();
            let texts = Sentences::of(wanted, &mut numbering).zip(Sentences::of(said, &mut numbering));
            texts.is_some_and(|(wanted, said)| rouge_l(&wanted, &said) >= 0.2)
        }
        _ => false,
    }
}

/// Equal as Python compares what its `json` module reads.
fn same(one: &Json, two: &Json) -> bool {
    match (one, two) {
        (Json::List(one), Json::List(two)) => {
            one.len() == two.len() && one.iter().zip(two).all(|(one, two)| same(one, two))
        }
        (Json::Object(one), Json::Object(two)) => same_object(one, two),
        // `true` is 1.
        (Json::Number(_) | Json::Bool(_), Json::Number(_) | Json::Bool(_)) => same_number(one, two),
        _ => one == two,
    }
}

/// Of two entries with the same key the last counts.
fn same_object(one: &[(String, Json)], two: &[(String, Json)]) -> bool {
    let get = |of: &'_ [(String, Json)], key: &str| of.iter().rposition(|(name, _)| name == key);
    let same_value = |(key, _): &(String, Json)| match (get(one, key), get(two, key)) {
        (Some(at), Some(other)) => same(&one[at].1, &two[other].1),
        _ => false,
    };
    one.iter().all(same_value) && two.iter().all(|(key, _)| get(one, key).is_some())
}

/// A number without a point or an exponent is exact, any other a float.
fn same_number(one: &Json, two: &Json) -> bool {
    let whole = |number: &Json| match number {
        Json::Bool(flag) => Some(u8::from(*flag).to_string()),
        Json::Number(number) if !number.as_str().contains(['.', 'e', 'E']) => {
            Some(if number.as_str() == "-0" { "0" } else { number.as_str() }.to_owned())
        }
        _ => None,
    };
    let float = |number: &Json| number.as_f64().unwrap_or(f64::NAN);
    match (whole(one), whole(two)) {
        (Some(one), Some(two)) => one == two,
        (None, None) => float(one) == float(two),
        (Some(exact), None) => same_as_float(&exact, float(two)),
        (None, Some(exact)) => same_as_float(&exact, float(one)),
    }
}

/// A whole number beyond 128 bits equals no float here.
fn same_as_float(exact: &str, float: f64) -> bool {
    let in_range = float.abs().total_cmp(&1e38) == Ordering::Less;
    in_range && float.fract() == 0.0 && exact.parse() == Ok(float as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(input: &str, wanted: &str) -> bool {
        is_right(
            &format!("Thought: x\nAction: f\nAction Input: {input}"),
            &format!("Action: f\nAction Input: {wanted}"),
        )
    }

    #[test]
    fn calls() {
        assert_eq!(call("Action: f\nAction Input: {\"a\": 1}"), ("f", "{\"a\": 1}"));
        assert_eq!(call("Action: f\nAction Input: 1\nAction: g\nAction Input: 2"), ("g", "2"));
        assert_eq!(call("no call"), ("none", "{}"));
        assert_eq!(call("Action Input: x"), ("none", "x"));
        // `Action Input:` alone names no action: the `Action:` is part of no other word.
        assert_eq!(call("Action: f Action: "), ("", "{}"));
    }

    #[test]
    fn inputs() {
        for (input, wanted, agree) in [
            (r#"{"a": 1, "b": [true]}"#, r#"{"b": [1], "a": 1.0}"#, true),
            (r#"{"a": 2, "a": 1}"#, r#"{"a": 1}"#, true),
            (r#"{"a": 1}"#, r#"{"a": 2}"#, false),
            (r#"{"a": 1, "b": 2}"#, r#"{"a": 1}"#, false),
            (r#"{"a": "1"}"#, r#"{"a": 1}"#, false),
            (r#"{"a": -0}"#, r#"{"a": 0}"#, true),
            (r#"{"a": 9007199254740993}"#, r#"{"a": 9007199254740992.0}"#, false),
            (r#"{"a": 1e2}"#, r#"{"a": 100}"#, true),
            ("{}", "{}", true),
            ("{}", r#"{"a": 1}"#, false),
            ("[1]", "[1]", false),
            ("the red house", "the red house", true),
            ("the red house", "a green tree", false),
            ("{", "{}", false),
            ("", "", false),
        ] {
            assert_eq!(right(input, wanted), agree, "{input} and {wanted}");
        }
    }

    #[test]
    fn what_a_server_leaves_behind() {
        let wanted = "Action: f\nAction Input: {}";
        assert!(is_right("Action: f\nAction Input: {}<|im_end|>", wanted));
        assert!(is_right("Action: f\nAction Input: {}\nObservation:", wanted));
        assert!(!is_right("Action: f\nAction Input: {}\nObservation: 3", wanted));
    }
}
