//! Tests of seams: what a dump may hold between databases and tables, and what forges them.

use super::super::index::{Kind, Object};
use super::*;

const HEAD: &str = "/*M!999999\\- enable the sandbox mode */ \n/* set */;\n-- CHANGE MASTER TO MASTER_LOG_FILE='bin.000003', MASTER_LOG_POS=345;\n";
const FOOT: &str =
    "\n/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n\n/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;\n\n";
/// What somebody may call a table, and write into it.
const HOSTILE: &str = "x;\n\n--\n-- Current Database: ``b``\n--\n\nCREATE DATABASE ``b``;\n\nUSE ``b``;\nDROP TABLE IF EXISTS ``t``;\nDELIMITER ;;\n/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n-- Dump completed\n";

fn section(name: &str, body: &str) -> String {
    format!("\nCREATE DATABASE /*!32312 IF NOT EXISTS*/ `{name}` /*!40100 DEFAULT */;\n\nUSE `{name}`;{body}")
}

fn table(name: &str, rows: usize) -> String {
    let text = HOSTILE.replace('\n', "\\n");
    let rows = format!("\nINSERT INTO x VALUES ('{text}'),\n('it''s \\'');").repeat(rows);
    format!(
        "\nDROP TABLE IF EXISTS `{name}`;\nCREATE TABLE `{name}` (`{HOSTILE}` int COMMENT '{text}');{rows}"
    )
}

fn definitions(name: &str) -> Definitions {
    let bytes = format!("\nof {name};\n").into_bytes();
    let (name, to) = (name.to_owned(), bytes.len() as u64);
    Definitions {
        bytes,
        objects: vec![Object { kind: Kind::View, name, table: None, elsewhere: None, from: 0, to }],
    }
}

/// The parts of a dump, each with its index and where it was cut.
fn take(dump: &str, names: &[&str], part: usize) -> Result<Vec<(String, Index, usize)>, String> {
    let mut seams = Seams::new(names.iter().map(|name| (*name).to_owned()).collect());
    let (mut bytes, mut all) = (dump.as_bytes(), vec![]);
    let (mut text, mut cuts) = (vec![], 0);
    let mut buffer = vec![0; 1000];
    while all.len() < names.len() {
        seams.define(definitions(names[all.len()]), ["v".to_owned()].into());
        match seams.step(&mut buffer) {
            Step::Bytes(len) => text.extend_from_slice(&buffer[..len]),
            Step::Cut => cuts += 1,
            Step::End(index) => {
                all.push((String::from_utf8(std::mem::take(&mut text)).unwrap(), index, cuts));
                cuts = 0;
            }
            Step::Truncated(why) => return Err(why),
            Step::More => {
                let mut read = |space: &mut [u8]| {
                    let len = part.min(bytes.len());
                    space[..len].copy_from_slice(&bytes[..len]);
                    bytes = &bytes[len..];
                    Ok(if len == 0 { Piece::End } else { Piece::Data(len) })
                };
                seams.fill(&mut read).unwrap();
            }
        }
    }
    assert_eq!(seams.position(), Some(("bin.000003".into(), "345".into())));
    Ok(all)
}

#[test]
fn databases_and_tables() {
    let tables = [table("t", 200), table("u``v", 10), table(HOSTILE, 1)];
    // A view is not passed on: neither its columns nor, at the end, itself.
    let view = "\nDROP TABLE IF EXISTS `v`;\n/*!50001 DROP VIEW IF EXISTS `v`*/;\nSET character_set_client = utf8mb4;\n/*!50001 CREATE VIEW `v` AS SELECT\n NULL AS `DROP;` */;";
    let views = "\nUSE `a`;\n/*!50001 DROP VIEW IF EXISTS `v`*/;\n/*!50001 VIEW `v` AS select 1 */;\n\nUSE `b`;\n\nUSE `c`;\n";
    let body = [&tables[0], view, &tables[1], &tables[2]].concat();
    let dump = [HEAD, &section("a", &body), &section("b", view), &section("c", &table("t", 1)), views, FOOT]
        .concat();
    for part in [13, 1000, 1 << 20] {
        let all = take(&dump, &["a", "b", "c"], part).unwrap();
        for ((text, index, _), name) in all.iter().zip(["a", "b", "c"]) {
            assert!(text.starts_with(HEAD), "{text}");
            let behind = &text[index.tables_end as usize..];
            let tables = &text[index.body as usize..index.tables_end as usize];
            assert!(tables.starts_with(if name == "b" { "" } else { "\nDROP TABLE" }), "{tables}");
            assert_eq!(behind, format!("\nof {name};\n\n-- Dump completed\n"));
            assert_eq!(text[index.head as usize..index.body as usize], section(name, ""));
            assert_eq!(index.objects[0].from, index.tables_end);
        }
        let (text, index, cuts) = &all[0];
        assert_eq!(*cuts, 1);
        let names: Vec<&str> = index.tables.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["t", "u`v", &HOSTILE.replace("``", "`")]);
        for ((_, from, to), table) in index.tables.iter().zip(&tables) {
            assert_eq!(text[*from as usize..*to as usize], *table);
        }
        assert_eq!(index.tables.last().unwrap().2, index.tables_end);
        // What stands behind the last one's tables is not its beginning.
        let last = [HEAD, &section("a", ""), FOOT].concat();
        let (text, index, _) = &take(&last, &["a"], part).unwrap()[0];
        assert_eq!(text[index.head as usize..index.body as usize], section("a", ""));
    }
    let dump = dump.replace(views, "");
    let end = dump.len() - FOOT.len();
    for at in (0..end).step_by(97).chain([end - 1, end, end + 20]) {
        assert!(take(&dump[..at], &["a", "b", "c"], 4096).is_err(), "cut at {at}");
    }
    // Others than those that were asked for.
    for names in [&["a", "c"][..], &["b", "c"], &["a", "b"], &["a", "b", "c", "d"]] {
        assert!(take(&dump, names, 4096).is_err(), "{names:?}");
    }
}

#[test]
fn a_table_before_its_database_is_chosen_is_none() {
    let early = section("a", "").replace("\nUSE", &format!("{}\nUSE", table("t", 1)));
    for (part, body) in [(13, &early), (1 << 20, &early)] {
        let why = take(&[HEAD, body, FOOT].concat(), &["a"], part).unwrap_err();
        assert!(why.contains("does not choose first"), "{why}");
    }
}

#[test]
fn what_has_no_end_has_a_bound() {
    for part in ["SET x;\n", "\n", " ", "-- x\n", "SET x = 'y'", "/* "] {
        let names = VecDeque::from(["a".to_owned()]);
        let mut seams = Seams::new(names);
        let many = part.repeat(READ / part.len() + 1);
        let mut filled = 0_usize;
        let why = loop {
            match seams.step(&mut [0; 1000]) {
                Step::More => {
                    let mut read = |buffer: &mut [u8]| {
                        buffer.copy_from_slice(&many.as_bytes()[..buffer.len()]);
                        Ok(Piece::Data(buffer.len()))
                    };
                    seams.fill(&mut read).unwrap();
                    filled += READ;
                    assert!(filled < 16 * MAX_HEAD, "{part:?}: no bound");
                }
                Step::Truncated(why) => break why,
                step => panic!("{part:?}: {step:?}"),
            }
        };
        assert!(why.contains("no dump of mariadb-dump"), "{part:?}: {why}");
    }
}
