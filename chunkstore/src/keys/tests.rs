//! Secrets of slots: known answers, which a program of another language computed from docs/format.md alone; texts that are
//! damaged; slots of each kind; a key service.

use super::shamir;
use super::slot::slot_key;
use super::*;
use crate::env::SeededEnv;
use crate::format::{MAX_SERVICE_LEN, MAX_WRAPPED_LEN, SLOT_KINDS};
use crate::id::{from_hex, to_hex};
use proptest::prelude::*;

const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

/// The key whose bytes are 0, 1, 2, … 31.
const KEY_LINE: &str =
    "ESKER-KEY-1:000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F:40A3BDBD";
const KEY_WORDS: &str = "1. abandon amount liar human
2. advice choice limit dismiss
3. amount embark load stable
4. army half loop path
5. avoid mass luggage chicken
6. beef post magic melody
7. blossom silver man pond
8. bright trophy margin cube
9. doll bulb hungry swing
";
/// Shares of the same key: byte i of the coefficients is 7·i + 1 and 5·i + 3, three of five are needed.
const SHARES: [&str; 5] = [
    "ESKER-SHARE-1:030501000123456789ABCDEF020100070E3D0C131A79787F6615242B323130F7FEEDFCC3CA29282F5645545B:2A637B32",
    "ESKER-SHARE-1:030502000123456789ABCDEF0E312867623DD4FBD649507F5ABEF7F8A59A8397928DE48BA6544D6287F8F1FE:6FDDA6EB",
    "ESKER-SHARE-1:030503000123456789ABCDEF0C312A636805DEEFC439220B30A6DDDC87BAA17378750E5F74647F56CDA0BBBA:C8AAA75F",
    "ESKER-SHARE-1:030504000123456789ABCDEF34A1EE601B4E8C996A3F70A59E4A6530881D52473CE91D887B3778AD0D832C79:E6CCBB95",
    "ESKER-SHARE-1:030505000123456789ABCDEF36A1EC641176868D784F02D1F4524F14AA3D70A3D611F75CA9074A9947DB663D:85881DE4",
];
const SHARE_WORDS: &str =
    "adapt chimney divorce jazz abuse boss fly ecology meadow fury know total acoustic amount acid empty
athlete trick age boat bounce slim cabin carpet gravity powder april half cram maze differ spare
year husband cotton muffin sketch enable armor learn film click black bind clerk bridge smart narrow";

fn counting() -> [u8; 32] {
    std::array::from_fn(|at| at as u8)
}

fn key(text: &str) -> RawKey {
    match KeyText::parse(text.as_bytes()) {
        Ok(KeyText::Key(key)) => key,
        other => panic!("{other:?}"),
    }
}

fn share(text: &str) -> Share {
    match KeyText::parse(text.as_bytes()) {
        Ok(KeyText::Share(share)) => share,
        other => panic!("{other:?}"),
    }
}

fn refused(text: &str) -> KeyTextError {
    KeyText::parse(text.as_bytes()).unwrap_err()
}

#[test]
fn a_key_is_written_and_read_as_the_format_says() {
    let key = key(KEY_LINE);
    assert_eq!(key, RawKey::of(counting()));
    assert_eq!((key.text().line().as_str(), key.text().numbered_words().as_str()), (KEY_LINE, KEY_WORDS));
    for text in [
        KEY_WORDS.to_owned(),
        KEY_WORDS.to_uppercase(),
        KEY_WORDS.replace(['\n', '.'], " "),
        KEY_WORDS.replace("1. ", "").replace(' ', ", "),
        format!("\u{feff}# a remark: zoo zoo zoo\r\n{}", KEY_LINE.to_lowercase().replace('0', " 0\r\n")),
    ] {
        assert_eq!(self::key(&text), key, "{text}");
    }
}

#[test]
fn shares_are_those_of_the_format() {
    let secret = counting();
    let shares: Vec<Share> = SHARES.iter().map(|line| share(line)).collect();
    assert_eq!(share(SHARE_WORDS), shares[0]);
    assert_eq!(shares[0].text().words().len(), 12);
    for (line, share) in SHARES.iter().zip(&shares) {
        assert_eq!(share.text().line().as_str(), *line);
        assert_eq!((share.of(), share.split().as_str()), ((3, 5), "0123456789abcdef"));
    }
    let named = |numbers: &[usize]| numbers.iter().map(|at| (format!("{at}"), shares[*at].clone())).collect();
    for numbers in [[0, 1, 2], [4, 2, 0], [1, 3, 4]] {
        let slot = ObjectId([9; 32]);
        let shares = Shares::of(named(&numbers)).unwrap();
        let all = Shares::of(named(&[0, 1, 2, 3, 4])).unwrap();
        let env = SeededEnv::new(1);
        let new = NewSlot { repository: &RepositoryId([3; 16]), slot: &slot, kdf: CHEAP, env: &env };
        let (method, made) = all.make(&new).unwrap();
        assert_eq!(*made, secret);
        assert_eq!(
            serde_json::Value::Object(method.members)["checks"][4],
            "46b79f375a50cb20a6e5c6316b778bb95668bb1ae76f1b586448efa6cad962e7"
        );
        assert!(shares.make(&new).is_err(), "a slot knows all shares");
    }
}

#[test]
fn the_key_of_a_slot_is_that_of_the_format() {
    let committed = slot_key(&counting(), &RepositoryId([3; 16]), &ObjectId([9; 32]));
    let parent = derive(&counting(), "slot", &[&[3; 16], &[9; 32]]);
    assert_eq!(
        to_hex(&*derive(&parent, "seal", &[])),
        "110f7364065cb5cdce190fc5864a61443910c4ec85aaf90c96cdaf4fec63a1bc"
    );
    assert_eq!(
        to_hex(&committed.commitment),
        "41cad64e66a836c2192f0f985cd0c81b811aa7703a522bb3b46400b1e5cc0628"
    );
}

/// The list is the English one of BIP 39, whose hash many programs have.
#[test]
fn the_list_of_words_is_the_published_one() {
    let words: Vec<&str> = include_str!("../../../docs/words.txt").lines().collect();
    assert_eq!((words.len(), words[0], words[2047]), (2048, "abandon", "zoo"));
    let beginnings: std::collections::HashSet<&str> =
        words.iter().map(|word| &word[..word.len().min(4)]).collect();
    assert_eq!(beginnings.len(), 2048);
}

#[test]
fn what_is_wrong_with_a_text_is_said_and_where() {
    let words: Vec<&str> = KEY_WORDS.split_whitespace().filter(|word| !word.ends_with('.')).collect();
    let with = |at: usize, word: &str| {
        let mut words = words.clone();
        words[at] = word;
        refused(&words.join(" "))
    };
    assert_eq!(with(9, "zoo"), KeyTextError::Group { group: 3 });
    assert_eq!(with(9, "embarc"), KeyTextError::Word { group: 3, place: 2 });
    assert_eq!(with(0, "zoo"), KeyTextError::Group { group: 1 });
    assert_eq!(refused(&words[..35].join(" ")), KeyTextError::Words { words: 35 });
    assert_eq!(refused(&words[1..].join(" ")), KeyTextError::Group { group: 1 });
    assert_eq!(refused(&[&words[..], &["zoo"]].concat().join(" ")), KeyTextError::Words { words: 37 });
    let mut swapped = words.clone();
    swapped.rotate_left(4);
    assert_eq!(refused(&swapped.join(" ")), KeyTextError::Group { group: 1 });
    // A group of another sheet fits by itself; all together do not.
    let other = RawKey::of([7; 32]).text().words();
    let mixed = [&words[..32], &other[8]].concat();
    assert_eq!(refused(&mixed.join(" ")), KeyTextError::Checksum);

    assert_eq!(refused(&KEY_LINE[..40]), KeyTextError::Length { digits: 28, expected: 72 });
    assert_eq!(refused(&format!("{KEY_LINE}0")), KeyTextError::Length { digits: 73, expected: 72 });
    assert_eq!(refused(&KEY_LINE.replace("0F", "0E")), KeyTextError::Checksum);
    assert_eq!(refused(&KEY_LINE.replace("0F", "0G")), KeyTextError::Digit { place: 32 });
    assert_eq!(refused("ESKER-KEY-1"), KeyTextError::Length { digits: 0, expected: 72 });
    assert_eq!(refused(&KEY_LINE.replace("-1:", "-2:")), KeyTextError::Later);
    assert_eq!(refused("ESKER-LOCK-1:00"), KeyTextError::Other);
    for nothing in ["", " \n", "# a remark\n"] {
        assert_eq!(refused(nothing), KeyTextError::Empty);
    }
    for other in ["hunter2", "-----BEGIN KEY-----", &"x".repeat(1 << 20)] {
        assert_eq!(refused(other), KeyTextError::Other, "{other:.30}");
    }
    assert_eq!(KeyText::parse(b"\xff\xfe"), Err(KeyTextError::Other));
    // A share of nothing: its checksum fits.
    for numbers in [[1, 3, 1, 0], [3, 2, 1, 0], [2, 3, 0, 0], [2, 3, 4, 0], [2, 17, 1, 0], [2, 3, 1, 1]] {
        let payload = [&numbers[..], &[0; 40]].concat();
        let line = KeyBytes::new(text::SHARE_LABEL, &payload).line();
        assert_eq!(refused(&line), KeyTextError::Numbers, "{numbers:?}");
    }
}

#[test]
fn nothing_secret_is_shown() {
    let (key, share) = (key(KEY_LINE), share(SHARES[0]));
    let shares = Shares::of(vec![("a".into(), share.clone()), ("b".into(), self::share(SHARES[1]))]);
    let few = shares.unwrap_err().to_string();
    assert_eq!(
        format!("{key:?} {share:?} {:?} {:?}", key.text(), share.text()),
        "RawKey Share(1 of 5, split 0123456789abcdef) KeyBytes(ESKER-KEY-1) KeyBytes(ESKER-SHARE-1)"
    );
    let all = SHARES.map(|line| (String::new(), self::share(line)));
    let shown = format!("{:?} {few}", Shares::of(all.into()).unwrap());
    assert!(!shown.contains("value") && !shown.contains("0201") && !shown.contains("[2, 1"), "{shown}");
}

proptest! {
    #[test]
    fn keys_come_back_from_each_form(bytes in any::<[u8; 32]>(), at in 0usize..72, digit in 0u32..16) {
        let key = RawKey::of(bytes);
        let line = key.text().line();
        prop_assert_eq!(&self::key(&line), &key);
        prop_assert_eq!(&self::key(&key.text().numbered_words()), &key);
        // One digit is another.
        let digits = line.replace("ESKER-KEY-1", "").replace(':', "");
        let mut digits: Vec<char> = digits.chars().collect();
        let other = char::from_digit(digit, 16).unwrap().to_ascii_uppercase();
        let is_same = digits[at] == other;
        digits[at] = other;
        let changed: String = digits.into_iter().collect();
        let read = KeyText::parse(format!("ESKER-KEY-1:{changed}").as_bytes());
        prop_assert_eq!(read.is_ok(), is_same);
    }

    #[test]
    fn no_text_is_a_panic(text in "[a-z0-9: #.\n]{0,300}") {
        let _ = KeyText::parse(text.as_bytes());
        let _ = KeyText::parse(format!("ESKER-SHARE-1:{text}").as_bytes());
        let _ = KeyText::parse(format!("abandon amount liar human {text}").as_bytes());
    }
}

fn ring(seed: u64) -> (SeededEnv, KeyRing) {
    let env = SeededEnv::new(seed);
    let ring = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
    (env, ring)
}

/// Whether a secret opens a slot.
fn opens<S: SlotSecret + ?Sized>(slot: &(ObjectId, Vec<u8>), secret: &S) -> bool {
    open_slot(&slot.0, &slot.1, secret).unwrap().is_some()
}

#[test]
fn each_kind_of_slot_opens_with_its_secret_only() {
    let (env, ring) = ring(5);
    let make =
        |secret: &dyn SlotSecret| make_slot(&ring, &secret, CHEAP, SlotOwner::default(), &env).unwrap();
    let (mine, other) = (RawKey::generate(&env).unwrap(), RawKey::generate(&env).unwrap());
    let shares = Shares::make(2, 3, &env).unwrap();
    let slots = [make(b"pw"), make(&mine), make(&shares)];
    let secrets: [&dyn SlotSecret; 3] = [b"pw", &mine, &shares];
    for (at, slot) in slots.iter().enumerate() {
        for (of, secret) in secrets.iter().enumerate() {
            assert_eq!(opens(slot, secret), at == of, "slot {at}, secret {of}");
            let header = slot_header(&slot.0, &slot.1).unwrap();
            assert_eq!(secret.is_for(&header), at == of);
        }
        assert!(!opens(slot, &other));
    }
    let kinds = slots.each_ref().map(|(id, bytes)| slot_header(id, bytes).unwrap().kind_shown());
    assert_eq!(kinds, ["passphrase", "key", "shares 2/3"]);
    // The same key in two slots: each has its own key under it.
    let again = make(&mine);
    assert!(opens(&again, &mine));
    let sealed = |slot: &(ObjectId, Vec<u8>)| split_lines(&slot.1).unwrap().1[..64].to_owned();
    assert_ne!(sealed(&again), sealed(&slots[1]));
    // A key's slot under another name is another slot.
    assert!(!opens(&(again.0, slots[1].1.clone()), &mine));
}

#[test]
fn every_flipped_byte_of_a_slot_of_shares_is_noticed() {
    let (env, ring) = ring(6);
    let shares = Shares::make(2, 2, &env).unwrap();
    let (id, bytes) = make_slot(&ring, &shares, CHEAP, SlotOwner::default(), &env).unwrap();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(!matches!(open_slot(&id, &bad, &shares), Ok(Some(_))), "byte {at}");
    }
}

#[test]
fn shares_that_do_not_belong_together_are_named() {
    let (env, ring) = ring(7);
    let split = Shares::make(2, 3, &env).unwrap();
    let shares: Vec<Share> = split.iter().cloned().collect();
    let stranger = Shares::make(2, 3, &env).unwrap().iter().next().cloned().unwrap();
    let given = |given: &[(&str, &Share)]| {
        Shares::of(given.iter().map(|(name, share)| ((*name).to_owned(), (*share).clone())).collect())
    };
    let said = |shares: Result<Shares>| shares.unwrap_err().to_string();
    let few = given(&[("a", &shares[0])]).unwrap_err();
    assert!(matches!(few, Error::TooFewShares { given: 1, needed: 2, .. }));
    assert!(few.to_string().starts_with("1 of 2 shares: 1 more of split"), "{few}");
    let other = said(given(&[("a", &shares[0]), ("b", &stranger)]));
    assert!(other.starts_with("b is a share of another split") && other.contains("than a "), "{other}");
    let twice = said(given(&[("a", &shares[1]), ("b", &shares[1])]));
    assert!(twice.starts_with("a and b are the same share, number 2"), "{twice}");
    assert!(given(&[]).is_err());

    let slot = make_slot(&ring, &split, CHEAP, SlotOwner::default(), &env).unwrap();
    for pair in [[0, 1], [2, 0], [1, 2]] {
        assert!(opens(&slot, &given(&pair.map(|at| ("x", &shares[at]))).unwrap()), "{pair:?}");
    }
    assert!(opens(&slot, &given(&[("a", &shares[0]), ("b", &shares[1]), ("c", &shares[2])]).unwrap()));
    // One with a sound checksum that was never made, also where it is not needed.
    let line = shares[2].text().line().to_string();
    let mut payload = from_hex(&line[14..102].to_lowercase()).unwrap();
    payload[43] ^= 1;
    let forged = share(&KeyBytes::new(text::SHARE_LABEL, &payload).line());
    let all = given(&[("a", &shares[0]), ("b", &shares[1]), ("c", &forged)]).unwrap();
    let refused = open_slot(&slot.0, &slot.1, &all).unwrap_err().to_string();
    assert!(refused.starts_with("c is not the share number 3 that was made"), "{refused}");
}

#[test]
fn numbers_of_shares_have_limits() {
    let env = SeededEnv::new(8);
    for (threshold, count) in [(2, 2), (2, 16), (16, 16), (3, 5)] {
        let shares = Shares::make(threshold, count, &env).unwrap();
        assert_eq!((shares.iter().count(), shares.needed()), (usize::from(count), (threshold, count)));
    }
    let said = |threshold, count| Shares::make(threshold, count, &env).unwrap_err().to_string();
    assert!(said(1, 3).contains("'esker key add --new-key-file'"));
    for (threshold, count) in [(0, 3), (4, 3), (2, 17), (2, 1), (2, 0)] {
        assert!(said(threshold, count).contains("cannot be"), "{threshold}/{count}");
    }
}

/// A share never equals its secret's polynomial of lower degree: zero is drawn as often as any other coefficient.
#[test]
fn coefficients_of_zero_are_drawn_too() {
    let env = SeededEnv::new(9);
    let zeros: usize = (0..100)
        .map(|_| {
            let shares = shamir::split(&[0; 32], 2, 2, &env).unwrap();
            shares[0].iter().filter(|byte| **byte == 0).count()
        })
        .sum();
    // 3200 bytes, of which 12.5 are expected to be 0.
    assert!((3..=30).contains(&zeros), "{zeros}");
}

/// A key service as another crate would make it: the header has what it wraps, and the service may fail.
struct Service {
    answers: Option<&'static str>,
}

impl SlotSecret for Service {
    fn name(&self) -> &'static str {
        "key service"
    }

    fn is_for(&self, header: &SlotHeader) -> bool {
        header.wrapped().is_some_and(|wrapped| wrapped.service == "kms://a")
    }

    fn open(&self, slot: &ObjectId, header: &SlotHeader) -> Result<Key> {
        if let Some(why) = self.answers {
            return Err(Error::KeyService { slot: Some(*slot), why: why.into(), is_away: true });
        }
        let wrapped = header.wrapped().and_then(|wrapped| from_hex(&wrapped.wrapped));
        let wrapped = wrapped.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        Ok(Zeroizing::new(
            wrapped.ok_or_else(|| Error::corrupt("slot", "no secret"))?.map(|byte| byte ^ 0x55),
        ))
    }

    fn make(&self, new: &NewSlot<'_>) -> Result<(Method, Key)> {
        let secret = Zeroizing::new(random_array::<32>(new.env)?);
        let wrapped = to_hex(&secret.map(|byte| byte ^ 0x55));
        let wrapped = Wrapped { service: "kms://a".into(), key: "v1".into(), wrapped };
        Ok((Method::wrapped(&wrapped)?, secret))
    }
}

/// What a slot says of a service is printed, and sent back to it.
#[test]
fn what_a_service_wrapped_has_bounds() {
    let sane = Wrapped { service: "kms://a".into(), key: "v1".into(), wrapped: "x".repeat(MAX_WRAPPED_LEN) };
    assert!(Method::wrapped(&sane).is_ok());
    for bad in [
        Wrapped { service: String::new(), ..sane.clone() },
        Wrapped { service: "a b".into(), ..sane.clone() },
        Wrapped { service: "a\u{1b}[2J".into(), ..sane.clone() },
        Wrapped { key: "k".repeat(MAX_SERVICE_LEN + 1), ..sane.clone() },
        Wrapped { key: "\u{fc}".into(), ..sane.clone() },
        Wrapped { wrapped: "x".repeat(MAX_WRAPPED_LEN + 1), ..sane.clone() },
        Wrapped { wrapped: "x\n".into(), ..sane.clone() },
    ] {
        assert!(Method::wrapped(&bad).is_err(), "{bad:?}");
        let (env, ring) = ring(11);
        let (id, bytes) =
            make_slot(&ring, &Service { answers: None }, CHEAP, SlotOwner::default(), &env).unwrap();
        let mut header = slot_header(&id, &bytes).unwrap();
        for (name, value) in [("service", &bad.service), ("key", &bad.key), ("wrapped", &bad.wrapped)] {
            header.members.insert(name.into(), value.as_str().into());
        }
        assert!(header.wrapped().is_none() && !header.is_known(), "{bad:?}");
    }
}

#[test]
fn a_key_service_needs_nothing_more_from_here() {
    let (env, ring) = ring(10);
    let up = Service { answers: None };
    let slot = make_slot(&ring, &up, CHEAP, SlotOwner::default(), &env).unwrap();
    let header = slot_header(&slot.0, &slot.1).unwrap();
    assert!(header.is_known() && SLOT_KINDS.contains(&"kms"));
    assert!(opens(&slot, &up) && !opens(&slot, b"pw"));
    let down = open_slot(&slot.0, &slot.1, &Service { answers: Some("the service is down") });
    assert!(down.unwrap_err().to_string().ends_with("the service is down"));
}
