//! What patterns fit, and which are refused.

use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text.as_bytes(), "here", false).unwrap()
}

fn fits(text: &str, path: &[u8]) -> bool {
    Patterns::new(vec![pattern(text)]).fits(path, path.ends_with(b"/"))
}

/// `(pattern, fits, fits not)`; a path with a slash at its end is a folder's.
const TABLE: &[(&str, &[&str], &[&str])] = &[
    ("d", &["d", "a/d", "a/b/d", "d/"], &["d/x", "dd", "a/dd/x"]),
    ("d/", &["d/", "a/d/"], &["d", "a/d"]),
    ("/d", &["d", "d/"], &["a/d"]),
    ("./d", &["d", "a/d"], &["d/x"]),
    ("a/d", &["a/d", "x/a/d"], &["a/x/d", "d"]),
    ("a//./d", &["a/d", "x/a/d"], &["a/x/d"]),
    ("*.log", &["a.log", "x/.log"], &["a.logs", "log"]),
    ("a*b*c", &["abc", "axbxc", "abbcc"], &["acb", "abcd"]),
    ("a/*/c", &["a/b/c", "x/a/b/c"], &["a/c", "a/b/b/c"]),
    ("a/**", &["a/b", "a/b/c", "x/a/b"], &["a", "a/", "x/a"]),
    ("a/**/c", &["a/c", "a/b/c", "a/b/b/c", "x/a/c"], &["a", "c"]),
    ("/a/**/c/**/e", &["a/c/e", "a/b/c/c/d/e"], &["a/e", "x/a/c/e"]),
    ("**/c", &["c", "a/b/c"], &["c/d"]),
    ("?", &["a", "x/\u{fc}"], &["ab"]),
    ("M?ller", &["M\u{fc}ller"], &["Mller", "Mueller"]),
    ("[a-c\u{e4}-\u{fc}]x", &["bx", "\u{f6}x"], &["dx", "bbx"]),
    ("[!a]x", &["bx", "\u{fc}x"], &["ax", "x"]),
    ("[^a]x", &["bx"], &["ax"]),
    ("[]a]", &["]", "a"], &["b"]),
    ("[a-]", &["-", "a"], &["b"]),
    ("[[:digit:]_]", &["7", "_"], &["a"]),
    ("[[:upper:]]*", &["Abc", "\u{dc}"], &["abc"]),
    ("\\[a]", &["[a]"], &["a"]),
    ("\\*", &["*"], &["a"]),
    ("\\#x", &["#x"], &["x"]),
    ("\\!x", &["!x"], &["x"]),
    ("\\~", &["~"], &["x"]),
    ("#recycle", &["#recycle", "a/#recycle/"], &["recycle"]),
    ("$RECYCLE.BIN", &["$RECYCLE.BIN"], &["RECYCLE.BIN"]),
    ("a ", &["a ", "x/a "], &["a"]),
    (" a", &[" a"], &["a"]),
    ("{a,b}", &["{a,b}"], &["a", "b"]),
    ("a\nb", &["a\nb"], &["ab"]),
];

#[test]
fn what_fits() {
    for (text, yes, no) in TABLE {
        for path in *yes {
            assert!(fits(text, path.as_bytes()), "{text:?} {path:?}");
        }
        for path in *no {
            assert!(!fits(text, path.as_bytes()), "{text:?} {path:?}");
        }
    }
    assert!(fits("?x", b"\xffx") && fits("*\u{fc}", b"\xff\xc3\xbc") && !fits("??x", b"\xffx"));
    let byte = Pattern::parse(b"M\xfcller", "here", false).unwrap();
    assert_eq!(byte.text(), "M\\xfcller");
    let list = Patterns::new(vec![byte]);
    assert!(list.fits(b"M\xfcller", false) && !list.fits("M\u{fc}ller".as_bytes(), false));
}

#[test]
fn case_is_ignored_in_every_alphabet() {
    let list = Patterns::parse(&["M\u{dc}LLER*", "[a-c]z", "*.LOG"], "here", true).unwrap();
    for path in ["m\u{fc}ller.txt", "x/M\u{fc}ller", "Bz", "bZ", "a.log", "a.Log"] {
        assert!(list.fits(path.as_bytes(), false), "{path}");
    }
    assert!(!list.fits("muller".as_bytes(), false) && list.unused().is_empty());
}

/// `(pattern, a part of why it is refused)`
const REFUSED: &[(&str, &str)] = &[
    ("", "empty"),
    ("!", "empty"),
    ("/", "names nothing"),
    ("//", "names nothing"),
    (".", "names nothing"),
    ("./", "names nothing"),
    ("[a", "has no ']'"),
    ("x/[a/b]", "has no ']'"),
    ("[]", "has no ']'"),
    ("[!]", "has no ']'"),
    ("[z-a]", "ends before it begins"),
    ("[[:digits:]]", "no class"),
    ("a\\", "ends with"),
    ("../a", "'..'"),
    ("a/../b", "'..'"),
    ("~/a", "'~'"),
    ("~", "'~'"),
];

#[test]
fn what_is_refused() {
    for (text, why) in REFUSED {
        let error = Pattern::parse(text.as_bytes(), "--exclude", false).unwrap_err();
        assert!(error.why.contains(why), "{text:?}: {error}");
        assert!(error.to_string().starts_with(&format!("--exclude: pattern '{text}': ")), "{error}");
    }
}

#[test]
fn what_would_leave_nothing_is_refused() {
    let check = |list: &[&str]| Patterns::parse(list, "here", false).unwrap().refuse_everything();
    for text in ["*", "**", "/**", "**/*", "*/*", "./**", "***"] {
        assert!(check(&[text]).is_err() && check(&["!a", text]).is_err(), "{text}");
        assert!(check(&[text, "!a"]).is_ok(), "{text}");
    }
    for text in ["*/", "/*", "*.*", "?*", "!*", "a/**"] {
        assert!(check(&[text]).is_ok(), "{text}");
    }
}

#[test]
fn the_last_that_fits_decides_and_all_that_fit_are_used() {
    let list = Patterns::parse(&["*.log", "a.log", "!keep.log", "never", "d/"], "here", false).unwrap();
    assert!(list.fits(b"x/a.log", false) && !list.fits(b"x/keep.log", false));
    let unused: Vec<&str> = list.unused().into_iter().map(Pattern::text).collect();
    assert_eq!(unused, ["never", "d/"]);
    assert_eq!(list.verdict(b"x/d", None), Verdict::DependsOnKind);
    assert_eq!(list.verdict(b"x/d", Some(false)), Verdict::FitsNot);
    assert_eq!(list.verdict(b"x/d", Some(true)), Verdict::Fits);
    assert_eq!(list.verdict(b"x/a.log", None), Verdict::Fits);
    assert!(list.fits_within(b"x/d/y", false) && !list.fits(b"x/d/y", false));
}

#[test]
fn files_of_patterns() {
    let text = b"\xef\xbb\xbf# comment\r\n\r\n  a b  \r\nc\\ \r\n\\#d\n$HOME/x\n${HOME}$$y\n$ODD/z\n";
    let variable = |name: &str| match name {
        "HOME" => Some(b"/home/u".to_vec()),
        "ODD" => Some(b"/srv/[x]".to_vec()),
        _ => None,
    };
    let list = Pattern::parse_file(text, "ex", false, &variable).unwrap();
    let list = Patterns::new(list);
    for path in ["a b", "c ", "#d", "home/u/x", "home/u$y", "srv/[x]/z"] {
        assert!(list.fits(path.as_bytes(), false), "{path}");
    }
    assert!(list.unused().is_empty());
    for (text, message) in [
        ("a\n\n$GONE/x\n", "ex:3: pattern '$GONE/x': the variable 'GONE' is not set"),
        ("$", "ex:1: pattern '$': '$' begins a variable's name"),
        ("a\r\n${x", "ex:2: pattern '${x': '${' has no '}'"),
        ("a\n b[ \n", "ex:2: pattern 'b[': '[' has no ']'"),
        ("x\\\\ \nd\\", "ex:2: pattern 'd\\': it ends with '\\'"),
    ] {
        let error = Pattern::parse_file(text.as_bytes(), "ex", false, &variable).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
    }
}

/// The tables of `docs/filters.md` are those of this file.
#[test]
fn the_document_has_these_tables() {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let document = std::path::Path::new(&root).parent().unwrap().join("docs/filters.md");
    let text = std::fs::read_to_string(document).unwrap();
    let code = |words: &[&str]| match words {
        [] => "—".to_owned(),
        words => {
            words.iter().map(|word| format!("`{}`", word.replace('\n', "\\n"))).collect::<Vec<_>>().join(" ")
        }
    };
    let lines = TABLE
        .iter()
        .filter(|(text, ..)| !text.contains('\n') && !text.starts_with(' ') && !text.ends_with(' '));
    let table: String =
        lines.map(|(text, yes, no)| format!("| `{text}` | {} | {} |\n", code(yes), code(no))).collect();
    assert!(text.contains(&table), "docs/filters.md: put this there\n{table}");
    let refused = REFUSED.iter().filter(|(text, _)| !text.is_empty());
    let table: String = refused
        .map(|(text, _)| {
            let error = Pattern::parse(text.as_bytes(), "here", false).unwrap_err();
            format!("| `{text}` | {} |\n", error.why)
        })
        .collect();
    assert!(text.contains(&table), "docs/filters.md: put this there\n{table}");
}
