//! BSON without the character NUL in its texts, which neither text nor jsonb can hold.

use super::fault::Fault;
use super::walk::{ARRAY, DOCUMENT, Elements, Raw, Value};

const TEXTS: [u8; 3] = [0x02, 0x0d, 0x0e];

/// The same value without NUL in any of its texts. `buffer` holds what had to be made anew.
pub(super) fn without_nul<'a>(value: &Value<'a>, buffer: &'a mut Vec<u8>) -> Result<Value<'a>, Fault> {
    Ok(match *value {
        Value::Document(bytes) => {
            *buffer = document(bytes, 0)?;
            Value::Document(buffer)
        }
        Value::Array(bytes) => {
            *buffer = document(bytes, 0)?;
            Value::Array(buffer)
        }
        Value::String(text) => {
            *buffer = kept(text);
            Value::String(buffer)
        }
        Value::Symbol(text) => {
            *buffer = kept(text);
            Value::Symbol(buffer)
        }
        Value::Code(text) => {
            *buffer = kept(text);
            Value::Code(buffer)
        }
        other => other,
    })
}

fn kept(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|&byte| byte != 0).collect()
}

/// mongod nests 180 levels at most; what is deeper is left for the writer to refuse.
const MAX_DEPTH: usize = 200;

pub(super) fn document(bytes: &[u8], depth: usize) -> Result<Vec<u8>, Fault> {
    let mut out = vec![0; 4];
    for element in Elements::new(bytes)? {
        let (name, raw) = element?;
        out.push(raw.element_type);
        out.extend_from_slice(name);
        out.push(0);
        append(raw, &mut out, depth)?;
    }
    out.push(0);
    let length = i32::try_from(out.len()).map_err(|_| Fault::malformed())?;
    out[..4].copy_from_slice(&length.to_le_bytes());
    Ok(out)
}

fn append(raw: Raw<'_>, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
    match raw.element_type {
        DOCUMENT | ARRAY if depth < MAX_DEPTH => out.extend(document(raw.bytes, depth + 1)?),
        element_type if TEXTS.contains(&element_type) => {
            let text = match raw.value()? {
                Value::String(text) | Value::Symbol(text) | Value::Code(text) => kept(text),
                _ => return Err(Fault::malformed()),
            };
            out.extend_from_slice(&(text.len() as u32 + 1).to_le_bytes());
            out.extend_from_slice(&text);
            out.push(0);
        }
        _ => out.extend_from_slice(raw.bytes),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc};

    use super::*;

    #[test]
    fn nul_goes_from_every_text_and_nothing_else_changes() {
        let with = |nul: &str| {
            let code = Bson::JavaScriptCode(format!("x{nul}"));
            doc! { "a": format!("{nul}a{nul}b"), "b": { "c": [1, format!("{nul}"), { "d": format!("{nul}é") }] },
            "e": Bson::Symbol(format!("s{nul}")), "f": code, "g": 1.5, "h": Bson::Null }
        };
        let bytes = with("\0").to_vec().unwrap();
        let mut buffer = Vec::new();
        let Ok(Value::Document(stripped)) = without_nul(&Value::Document(&bytes), &mut buffer) else {
            panic!("no document")
        };
        assert_eq!(stripped, with("").to_vec().unwrap());
    }
}
