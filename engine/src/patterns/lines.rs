//! Files of lines, of patterns or of paths: what in them is a line, a comment, a variable.

/// The lines of a file, each with its number from 1: without a byte order mark, line ends of either kind, blanks at
/// both ends (`\ ` at the end is one that counts), empty lines, and comments, which begin with `#`.
#[must_use]
pub fn read_lines(bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let lines = bytes.split(|byte| *byte == b'\n').map(trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"));
    lines.map(|(number, line)| (number + 1, line)).collect()
}

fn trim(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
    let short = line.trim_ascii_end();
    let escapes = short.iter().rev().take_while(|byte| **byte == b'\\').count();
    match line.get(..short.len() + 1) {
        Some(longer) if escapes % 2 == 1 => longer,
        _ => short,
    }
}

impl super::Pattern {
    /// Reads the patterns of a file of lines. Its variables, `$NAME` and `${NAME}`, are replaced by what `variable`
    /// says of them, in which nothing is special; `$$` is a dollar sign. A variable that is not set is an error.
    pub fn parse_file(
        bytes: &[u8],
        name: &str,
        ignore_case: bool,
        variable: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Vec<Self>, super::PatternError> {
        let parse = |(number, line): (usize, &[u8])| {
            let place = format!("{name}:{number}");
            let expanded = expand(line, variable).map_err(|why| super::PatternError {
                place: place.clone(),
                pattern: String::from_utf8_lossy(line).into_owned(),
                why,
            })?;
            Self::parse(&expanded, &place, ignore_case)
        };
        read_lines(bytes).into_iter().map(parse).collect()
    }
}

fn expand(mut line: &[u8], variable: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Vec<u8>, String> {
    let mut out = vec![];
    while let Some(at) = line.iter().position(|byte| *byte == b'$') {
        let (before, rest) = (&line[..at], &line[at + 1..]);
        out.extend_from_slice(before);
        if let Some(rest) = rest.strip_prefix(b"$") {
            out.push(b'$');
            line = rest;
            continue;
        }
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let (name, rest) = match rest.strip_prefix(b"{") {
            Some(rest) => {
                let end = rest.iter().position(|byte| *byte == b'}').ok_or("'${' has no '}' after it")?;
                (&rest[..end], &rest[end + 1..])
            }
            None => rest.split_at(rest.iter().take_while(|byte| is_name(byte)).count()),
        };
        let name = std::str::from_utf8(name).unwrap_or_default();
        if name.is_empty() {
            return Err("'$' begins a variable's name here; write '$$' for a dollar sign".into());
        }
        let value = variable(name).filter(|value| !value.is_empty()).ok_or_else(|| {
            format!("the variable '{name}' is not set; write '$$' if '$' is part of a file's name")
        })?;
        for byte in value {
            if matches!(byte, b'*' | b'?' | b'[' | b'\\') || (out.is_empty() && matches!(byte, b'!' | b'~')) {
                out.push(b'\\');
            }
            out.push(byte);
        }
        line = rest;
    }
    out.extend_from_slice(line);
    Ok(out)
}
