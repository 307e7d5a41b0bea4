//! Forecasts: three nights say what fourteen will take, and the report can be looked at.

use crate::harness::{Repo, run};
use crate::nights::{Table, stored, stream};

#[test]
fn three_nights_forecast_fourteen_and_the_report_opens() {
    let repo = Repo::new();
    let mut table = Table::new(120_000);
    let mut versions = vec![];
    for night in 1..=14 {
        let data = table.dump();
        stream(&repo, &data, &[]);
        if night <= 3 {
            let path = repo.path(&format!("night-{night}"));
            std::fs::write(&path, data).unwrap();
            versions.push(path.display().to_string());
        }
        table.next_night();
    }
    let report = repo.path("report.html");
    let mut args =
        vec!["plan", "--html", report.to_str().unwrap(), "--days", "13", "--tier", "vault=0.5", "--nights"];
    args.extend(versions.iter().map(String::as_str));
    let plan = repo.json(&args);
    let point = &plan["points"][13];
    let (forecast, actual) = (point["bytes"].as_u64().unwrap(), stored(&repo));
    assert!(forecast.abs_diff(actual) * 100 < actual * 15, "forecast {forecast}, took {actual}");
    assert!(point["bytes_low"].as_u64() < Some(actual) && Some(actual) < point["bytes_high"].as_u64());
    assert_eq!(plan["money"][0]["tier"]["name"], "vault");
    assert!(point["restore_seconds"].as_f64().unwrap() > 0.0);
    // What the repository's own snapshots say of themselves comes to the same.
    let plan = repo.json(["plan", "--days", "13"]);
    let forecast = plan["points"][13]["bytes"].as_u64().unwrap();
    assert!(forecast.abs_diff(actual) * 100 < actual * 15, "forecast {forecast}, took {actual}");

    let (shot, page) = (repo.path("report.png"), format!("file://{}", report.display()));
    let browser = |what: &str| run("chromium", &["--headless", "--no-sandbox", "--disable-gpu", what, &page]);
    browser(&format!("--screenshot={}", shot.display()));
    assert!(std::fs::metadata(&shot).unwrap().len() > 20_000);
    let dom = browser("--dump-dom");
    for part in [
        "<svg",
        "Repository",
        "Times",
        "Money",
        "vault",
        "to restore (RTO)",
        "Planned from 3 versions",
        "straight line",
        "US dollars a month",
    ] {
        assert!(dom.contains(part), "no {part}");
    }
    assert!(!dom.contains("#010203") && !dom.contains("<script") && !dom.contains("http-equiv"));
}

#[test]
fn ten_years_of_hours_are_a_page_that_a_phone_can_show() {
    let repo = Repo::new();
    let bytes: Vec<u8> =
        (0..4_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let versions: Vec<String> = (0..4usize)
        .map(|night| {
            let path = repo.path(&format!("shrinks-{night}"));
            std::fs::write(&path, &bytes[..bytes.len() - night * 20_000]).unwrap();
            path.display().to_string()
        })
        .collect();
    let report = repo.path("report.html");
    let mut args =
        vec!["plan", "--every", "1", "--days", "3650", "--html", report.to_str().unwrap(), "--nights"];
    args.extend(versions.iter().map(String::as_str));
    let plan = repo.json(&args);
    let points = plan["points"].as_array().unwrap();
    let (last, count) = (points.last().unwrap(), points.len());
    assert_eq!(
        (count, last["snapshots"].as_u64(), last["source_bytes"].as_u64()),
        (1000, Some(87_601), Some(0))
    );
    // The source is gone after 200 backups, and each of the others takes what a backup takes.
    let unchanged = plan["measured"]["unchanged"]["bytes"].as_f64().unwrap();
    assert!(unchanged > 0.0 && last["bytes"].as_f64().unwrap() > 80_000.0 * unchanged, "{last}");
    for time in ["backup_seconds", "restore_seconds"] {
        assert!(last[time].as_f64() > Some(0.0), "{time}: {last}");
    }
    let page = std::fs::read_to_string(&report).unwrap();
    assert!(page.len() < 100_000, "{} bytes", page.len());
    assert!(page.contains("shrinks by") && page.contains("every hour for 3650 days"));
    // Nothing is wider than the window, which is a phone's.
    let measured = repo.path("measured.html");
    std::fs::write(&measured, page + "<script>document.title=document.documentElement.scrollWidth</script>")
        .unwrap();
    let place = format!("file://{}", measured.display());
    let dom = run(
        "chromium",
        &["--headless", "--no-sandbox", "--disable-gpu", "--window-size=360,800", "--dump-dom", &place],
    );
    let width: u32 = dom.split("<title>").nth(1).unwrap().split('<').next().unwrap().parse().unwrap();
    assert!(width <= 500, "{width}: the narrowest window of the browser has 500");
    let text = repo.ok(&args);
    for part in ["Planned from 4 versions", "everything is kept", "shrinks by 19.53 KiB a backup"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains(" 0.0 s"), "{text}");
}

#[test]
fn a_plan_needs_two_versions_and_known_prices() {
    let repo = Repo::new();
    std::fs::write(repo.path("one"), "x").unwrap();
    repo.fails(2, ["plan", "--nights", "one"]);
    assert!(repo.fails(2, ["plan", "--tier", "attic"]).contains("NAME=DOLLARS"));
    assert!(repo.fails(1, ["plan"]).contains("--nights"));
    repo.fails(2, ["plan", "--keep", "fortnightly=2", "--nights", "one", "one"]);
}

#[test]
fn bench_measures_and_chooses() {
    let repo = Repo::new();
    let mut table = Table::new(60_000);
    std::fs::write(repo.path("one"), table.dump()).unwrap();
    table.next_night();
    std::fs::write(repo.path("two"), table.dump()).unwrap();
    let bench = repo.json(["bench", "one", "two"]);
    let rows = bench["rows"].as_array().unwrap();
    let sizes: Vec<u64> = rows
        .iter()
        .filter(|row| row["setting"] == "chunk size")
        .map(|row| row["chunk_size"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, [14, 15, 16, 17, 18, 19].map(|shift| 1 << shift));
    let find = |setting: &str| rows.iter().find(|row| row["setting"] == setting).unwrap();
    let whole = find("no delta")["night_bytes"].as_u64().unwrap();
    let delta =
        rows.iter().find(|row| row["chunk_size"] == 512 << 10).unwrap()["night_bytes"].as_u64().unwrap();
    assert!(delta * 5 < whole, "{delta} {whole}");
    assert_eq!(find("one core")["cores"], 1);
    for case in ["first", "changed", "duplicate", "restore"] {
        assert!(bench["roofline_bytes_per_second"][case].as_f64().unwrap() > 1e6, "{case}");
    }
    let text = repo.ok(["bench", "one"]);
    assert!(text.contains("choose: init --chunk-size"), "{text}");
    let only = repo.json(["bench", "--calibrate", "one"]);
    assert!(only["rows"].as_array().unwrap().is_empty());
    std::fs::write(repo.path("small"), "x").unwrap();
    assert!(repo.fails(1, ["bench", "small"]).contains("too little"));
}
