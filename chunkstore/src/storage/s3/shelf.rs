//! Classes, thawing, locks, versions and rules of S3, as the S3 API reference describes them: PutObject,
//! HeadObject, RestoreObject, PutObjectRetention, ListObjectVersions, GetBucketVersioning and
//! GetBucketLifecycleConfiguration.

use super::super::requests::{Answer, Ask, Requests, Sign, escape_all, has_dots};
use super::super::shelf::{Hidden, Lying, Page, Placing, Retrieval, Shelf, Warmth};
use super::super::{ErrorKind, StorageError, StorageResult, TooMany, is_of_hosts, most_listed};
use super::answers::{Lifecycle, Objects, Versioning, Versions, parse};
use base64::Engine as _;
use bytes::Bytes;
use http::Method;
use object_store::Result as ObjectResult;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::HttpRequest;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Signature version 4.
pub(super) struct S3Signer {
    pub(super) credentials: AwsCredentialProvider,
    pub(super) region: String,
}

impl Sign for S3Signer {
    async fn sign(&self, request: &mut HttpRequest) -> ObjectResult<()> {
        let credential = self.credentials.get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(request, None)
    }
}

/// CRC-32C (Castagnoli), with which S3 wants requests about locks to be checked.
const CRC32C: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);

pub(super) struct S3Shelf {
    requests: Requests<S3Signer>,
    lock_mode: &'static str,
    versioned: OnceLock<bool>,
}

impl S3Shelf {
    pub(super) fn new(requests: Requests<S3Signer>, lock_governance: bool) -> Self {
        let lock_mode = if lock_governance { "GOVERNANCE" } else { "COMPLIANCE" };
        Self { requests, lock_mode, versioned: OnceLock::new() }
    }

    /// Every version beneath a prefix of the bucket; each with whether it is the one that is seen. Pages go on behind the
    /// last one, and have no more versions in all than a repository has objects: a store that does otherwise has no end.
    fn versions(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Version) -> StorageResult<()>,
    ) -> StorageResult<()> {
        let (mut key, mut id) = (String::new(), String::new());
        let (mut count, most) = (0, most_listed(prefix));
        let failed = |why: &str| self.requests.objects.failed("list versions of", "", why);
        loop {
            let mut query = format!("prefix={}", escape_all(prefix));
            if !key.is_empty() {
                query = format!("key-marker={}&{query}", escape_all(&key));
            }
            if !id.is_empty() {
                query = format!("{query}&version-id-marker={}", escape_all(&id));
            }
            let answer = self
                .requests
                .send(&Ask::new("list versions of", Method::GET, "", format!("{query}&versions=")), &[])?;
            let page: Versions = self.read(&answer)?;
            let marks = page.marks.into_iter().map(|found| (found, true));
            for (found, mark) in page.versions.into_iter().map(|found| (found, false)).chain(marks) {
                let modified = found.modified.and_then(|time| time.parse().ok());
                let (key, id, latest) = (found.key, found.id, found.latest);
                count += 1;
                if count > most {
                    return Err(failed(&TooMany(most).to_string()));
                }
                each(Version { key, modified, id, latest, bytes: found.size.unwrap_or(0), mark })?;
            }
            if !page.truncated || page.next_key.is_empty() {
                return Ok(());
            }
            if page.next_key < key || (&page.next_key, &page.next_id) == (&key, &id) {
                return Err(failed("the store's next page does not go on behind the last one"));
            }
            // An empty page counts, too.
            count += 1;
            (key, id) = (page.next_key, page.next_id);
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, answer: &Answer) -> StorageResult<T> {
        parse(&answer.text()).map_err(|why| self.requests.objects.failed("understand", "", &why))
    }

    /// DeleteObjects, with one key.
    fn remove_by_body(&self, name: &str) -> StorageResult<()> {
        let key = self.requests.key(name);
        let key = quick_xml::escape::escape(key.as_str());
        let body = format!(
            "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Object><Key>{key}</Key></Object><Quiet>true</Quiet></Delete>"
        );
        let ask = Ask::new("delete", Method::POST, "", "delete=")
            .header("x-amz-checksum-crc32c", checksum(body.as_bytes()))
            .header("x-amz-sdk-checksum-algorithm", "CRC32C")
            .header("content-type", "application/xml")
            .body(body);
        let answer = self.requests.send(&ask, &[])?.text();
        if answer.contains("<Error>") {
            let failed =
                self.requests.objects.failed("delete", name, &format!("the store answered {answer}"));
            return Err(StorageError { kind: ErrorKind::BadName, ..failed });
        }
        Ok(())
    }

    /// Whether a version is under a lock now.
    fn is_locked(&self, name: &str, id: &str) -> StorageResult<bool> {
        let query = format!("versionId={}", escape_all(id));
        let answer = self.requests.send(&Ask::new("look at", Method::HEAD, name, query), &[])?;
        let until = answer.header("x-amz-object-lock-retain-until-date");
        Ok(until
            .and_then(|time| time.parse::<jiff::Timestamp>().ok())
            .is_some_and(|until| until > jiff::Timestamp::now()))
    }

    fn folder(&self) -> String {
        if self.requests.prefix.is_empty() { String::new() } else { format!("{}/", self.requests.prefix) }
    }
}

struct Version {
    key: String,
    modified: Option<jiff::Timestamp>,
    id: String,
    latest: bool,
    bytes: u64,
    mark: bool,
}

/// A key as `encoding-type=url` has it: percent-encoded, a space also as `+`.
fn decoded(key: &str) -> String {
    let key = key.replace('+', " ");
    percent_encoding::percent_decode_str(&key).decode_utf8_lossy().into_owned()
}

/// A time as S3 writes it in headers and bodies.
fn rfc3339(seconds: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX))
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}

fn seconds(time: jiff::Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or_default()
}

fn checksum(body: &[u8]) -> String {
    let crc = CRC32C.checksum(body);
    let bytes: Vec<u8> = (0..4).rev().map(|place| (crc >> (8 * place)) as u8).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Whether the bytes of a class must be thawed before they are read.
fn freezes(class: &str) -> bool {
    matches!(class, "GLACIER" | "DEEP_ARCHIVE")
}

impl Shelf for S3Shelf {
    fn put_as(&self, name: &str, body: Bytes, placing: &Placing) -> StorageResult<()> {
        let Some(until) = placing.locked_until else {
            return self.requests.objects.put(name, body, placing);
        };
        let mut ask = Ask::new("write", Method::PUT, name, "")
            .header("if-none-match", "*")
            .header("x-amz-checksum-crc32c", checksum(&body))
            .header("x-amz-sdk-checksum-algorithm", "CRC32C")
            .header("x-amz-object-lock-mode", self.lock_mode)
            .header("x-amz-object-lock-retain-until-date", rfc3339(until))
            .body(body.clone());
        if let Some(class) = &placing.class {
            ask = ask.header("x-amz-storage-class", class);
        }
        match self.requests.send(&ask, &[]) {
            // It may be from an earlier run, or another writer is at it at this moment (409).
            Err(error) if error.kind == ErrorKind::Conflict => {
                self.requests.objects.is_there(name, &body).map_err(|_| error)?;
                self.lock(name, until)
            }
            answer => answer.map(drop),
        }
    }

    /// What others named, `object_store` would name otherwise. DeleteObjects has the key in its body.
    fn remove(&self, name: &str) -> Option<StorageResult<()>> {
        if !is_of_hosts(name) || object_store::path::Path::from(name).as_ref() == name {
            return None;
        }
        let done = match has_dots(name) {
            false => self.requests.send(&Ask::new("delete", Method::DELETE, name, ""), &[404]).map(drop),
            true => self.remove_by_body(name),
        };
        Some(done)
    }

    /// ListObjectsV2. Keys come percent-encoded, since XML cannot have all of them.
    fn page(&self, folder: &str, from: Option<&str>) -> StorageResult<Page> {
        let prefix = escape_all(&self.requests.key(&format!("{folder}/")));
        let from = from.map(|from| format!("continuation-token={}&", escape_all(from))).unwrap_or_default();
        let query = format!("{from}encoding-type=url&list-type=2&prefix={prefix}");
        let answer = self.requests.send(&Ask::new("list", Method::GET, "", query), &[])?;
        let page: Objects = parse(&answer.text()).map_err(|why| self.requests.unreadable(folder, &why))?;
        let is_encoded = page.encoding.as_deref() == Some("url");
        let objects = page.objects.into_iter().map(|found| {
            let key = if is_encoded { decoded(&found.key) } else { found.key };
            (key, found.size.unwrap_or_default())
        });
        Ok(Page { objects: self.requests.names(objects), next: page.next.filter(|_| page.truncated) })
    }

    fn look(&self, name: &str) -> StorageResult<Lying> {
        let answer = self.requests.send(&Ask::new("look at", Method::HEAD, name, ""), &[])?;
        let class = answer.header("x-amz-storage-class").map(str::to_owned);
        let frozen = class.as_deref().is_some_and(freezes);
        let warmth = match answer.header("x-amz-restore") {
            _ if !frozen => Warmth::Hot,
            Some(restore) if restore.contains("ongoing-request=\"true\"") => Warmth::Thawing,
            Some(restore) if restore.contains("ongoing-request=\"false\"") => {
                let expiry = restore.split("expiry-date=\"").nth(1).and_then(|rest| rest.split('"').next());
                let expiry = expiry.and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
                Warmth::Thawed(expiry.map(|time| seconds(time.timestamp())))
            }
            _ => Warmth::Frozen,
        };
        let locked = answer.header("x-amz-object-lock-retain-until-date");
        Ok(Lying {
            len: answer.header("content-length").and_then(|len| len.parse().ok()).unwrap_or_default(),
            class,
            warmth,
            locked_until: locked.and_then(|time| time.parse().ok()).map(seconds),
        })
    }

    fn thaw(&self, name: &str, days: u32, retrieval: Retrieval) -> StorageResult<bool> {
        let tier = match retrieval {
            Retrieval::Expedited => "Expedited",
            Retrieval::Standard => "Standard",
            Retrieval::Bulk => "Bulk",
        };
        let body = format!(
            "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Days>{days}</Days><GlacierJobParameters><Tier>{tier}</Tier></GlacierJobParameters></RestoreRequest>"
        );
        let ask = Ask::new("thaw", Method::POST, name, "restore=")
            .header("x-amz-checksum-crc32c", checksum(body.as_bytes()))
            .header("x-amz-sdk-checksum-algorithm", "CRC32C")
            .header("content-type", "application/xml")
            .body(body);
        let answer = self.requests.send(&ask, &[400, 409])?;
        if answer.status.is_success() {
            return Ok(answer.status.as_u16() == 202);
        }
        // AWS says it with 409, an emulator may with 400.
        if answer.text().contains("RestoreAlreadyInProgress") {
            return Ok(false);
        }
        let why = if answer.text().contains("GlacierExpeditedRetrievalNotAvailable") {
            "the store has no capacity for expedited retrieval now; use standard or bulk".to_owned()
        } else {
            format!("the store answered {}: {}", answer.status, answer.text())
        };
        Err(StorageError {
            kind: ErrorKind::Failed,
            op: "thaw",
            object: format!("{}/{name}", self.requests.objects.place),
            source: why.into(),
        })
    }

    fn lock(&self, name: &str, until: u64) -> StorageResult<()> {
        if self.look(name)?.locked_until.is_some_and(|there| there >= until) {
            return Ok(());
        }
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{}</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
            self.lock_mode,
            rfc3339(until)
        );
        let ask = Ask::new("lock", Method::PUT, name, "retention=")
            .header("x-amz-checksum-crc32c", checksum(body.as_bytes()))
            .header("x-amz-sdk-checksum-algorithm", "CRC32C")
            .header("content-type", "application/xml")
            .body(body);
        self.requests.send(&ask, &[]).map(drop)
    }

    fn hazards(&self) -> StorageResult<Vec<String>> {
        let ask = Ask::new("read the lifecycle rules of", Method::GET, "", "lifecycle=");
        // 404: there are none. 501: the store has no such thing.
        let answer = match self.requests.send(&ask, &[404, 501]) {
            Ok(answer) if answer.status.is_success() => answer,
            Ok(answer) if answer.text().contains("NoSuchBucket") => {
                return Err(self.requests.objects.failed(
                    "read the lifecycle rules of",
                    "",
                    "there is no such bucket",
                ));
            }
            Ok(_) => return Ok(vec![]),
            Err(error) => return Err(error),
        };
        let rules: Lifecycle = self.read(&answer)?;
        Ok(rules.rules.iter().filter_map(|rule| rule.hazard(&self.folder())).collect())
    }

    fn is_versioned(&self) -> StorageResult<bool> {
        if let Some(known) = self.versioned.get() {
            return Ok(*known);
        }
        let ask = Ask::new("read the versioning of", Method::GET, "", "versioning=");
        let answer = self.requests.send(&ask, &[501])?;
        let known = answer.status.is_success() && !self.read::<Versioning>(&answer)?.status.is_empty();
        Ok(*self.versioned.get_or_init(|| known))
    }

    fn hidden(&self) -> StorageResult<Hidden> {
        let mut hidden = Hidden::default();
        self.versions(&self.folder(), &mut |version| {
            if !version.latest || version.mark {
                hidden.versions += 1;
                hidden.bytes += version.bytes;
            }
            Ok(())
        })?;
        Ok(hidden)
    }

    fn remove_hidden(&self, name: &str) -> StorageResult<()> {
        let key = self.requests.key(name);
        let mut found = vec![];
        // The mark of a deletion is what is seen then: it goes last, when nothing is left beneath it.
        let mut mark = vec![];
        let mut kept = false;
        self.versions(&key, &mut |version| {
            if version.key == key {
                match (version.latest, version.mark) {
                    (true, true) => mark.push(version.id),
                    (true, false) => {}
                    (false, _) => found.push(version.id),
                }
            }
            Ok(())
        })?;
        let remove = |id: &str| {
            let query = format!("versionId={}", escape_all(id));
            self.requests.send(&Ask::new("delete", Method::DELETE, name, query), &[])
        };
        for id in found {
            match remove(&id) {
                // Under a lock.
                Err(error) if error.kind == ErrorKind::Denied => kept = true,
                answer => drop(answer?),
            }
        }
        for id in mark.into_iter().filter(|_| !kept) {
            remove(&id)?;
        }
        Ok(())
    }

    fn bring_back(&self) -> StorageResult<u64> {
        // Newest first for each object; the first of all is what was locked.
        let mut objects: BTreeMap<String, Vec<Version>> = BTreeMap::new();
        let folder = self.folder();
        self.versions(&folder, &mut |version| {
            objects.entry(version.key.clone()).or_default().push(version);
            Ok(())
        })?;
        let mut count = 0;
        for (key, mut versions) in objects {
            let name = key.strip_prefix(&folder).unwrap_or(&key);
            if name == crate::format::names::HEAD || versions.len() < 2 {
                continue;
            }
            // Versions and marks are listed apart; times order them.
            versions.sort_by(|a, b| b.modified.cmp(&a.modified).then(b.latest.cmp(&a.latest)));
            let Some(first) = versions.iter().rposition(|version| !version.mark) else { continue };
            if first == 0 || !self.is_locked(name, &versions[first].id)? {
                continue;
            }
            for later in &versions[..first] {
                let query = format!("versionId={}", escape_all(&later.id));
                self.requests.send(&Ask::new("delete", Method::DELETE, name, query), &[])?;
            }
            count += 1;
        }
        Ok(count)
    }
}
