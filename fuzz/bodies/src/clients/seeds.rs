//! What an honest server says, in short: mutations of it get past the first check.

use super::mysql::MARK;
use super::peer::NONCE;

/// The seeds of a client's target.
pub(crate) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "pglogin" => logins(),
        "pgwire" => sessions(),
        "pgwal" => {
            vec![wal((1 << 32) - 20, 1 << 49), wal((1 << 32) - 20, i64::MAX as u64), wal(u64::MAX - 40, 0)]
        }
        "pgbase" => vec![base_backup()],
        "resp" => answers(),
        "psync" => transfers(),
        "redis" => redis(),
        "mysql" => vec![printed()],
        "mydump" => dumps(),
        "binlog" => logs(),
        "qdrant" => qdrant(),
        "cloud" => cloud(),
        _ => vec![],
    }
}

/// A message of PostgreSQL.
#[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

/// A row of values.
#[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
fn row(values: &[&str]) -> Vec<u8> {
    let mut body = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    message(b'D', &body)
}

fn error() -> Vec<u8> {
    message(b'E', b"SERROR\0C42601\0Msyntax error\0Ddetail\0Hhint\0\0")
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn let_in() -> Vec<u8> {
    let parameters = [
        &b"server_version\x0015.18 (Debian)\0"[..],
        b"in_hot_standby\0off\0",
        b"default_transaction_read_only\0off\0",
    ];
    let parameters = parameters.map(|body| message(b'S', body)).concat();
    [message(b'R', &[0; 4]), parameters, message(b'K', &[0; 8]), ready()].concat()
}

fn logins() -> Vec<Vec<u8>> {
    let scram = [
        message(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
        message(b'R', &[b"\0\0\0\x0br=", &NONCE[..], b"theirs,s=c2FsdA==,i=4096"].concat()),
        message(b'R', b"\0\0\0\x0cv=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
        let_in(),
    ];
    let in_clear = [message(b'R', b"\0\0\0\x03"), let_in()].concat();
    let md5 = [message(b'R', b"\0\0\0\x05salt"), message(b'N', b"SNOTICE\0Mhello\0\0"), let_in()].concat();
    let mut all = vec![];
    for words in [let_in(), in_clear, md5, scram.concat(), error()] {
        all.extend([0, 1].map(|which| [&[which], &words[..]].concat()));
    }
    all
}

fn sessions() -> Vec<Vec<u8>> {
    let columns = message(b'T', b"\0\x01name\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    let rows = [columns, row(&["1", "shop"]), row(&[""]), message(b'C', b"SELECT 2\0"), ready()].concat();
    let copied = [
        message(b'H', b"\0\0\x01\0\0"),
        message(b'd', b"1\tone\n"),
        message(b'd', &[b'x'; 70]),
        message(b'c', b""),
        message(b'C', b"COPY 2\0"),
        ready(),
    ]
    .concat();
    let stream =
        [message(b'W', b"\0\0\0"), message(b'd', b"k\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), message(b'c', b"")]
            .concat();
    let system =
        [row(&["7300000000000000001", "1", "0/1000000", ""]), ready(), row(&["16MB"]), ready()].concat();
    let taken = [message(b'C', b"COPY 1\0"), ready()].concat();
    let failed = [error(), ready()].concat();
    let mut all: Vec<Vec<u8>> =
        [(0, &rows), (1, &copied), (2, &stream), (3, &system), (4, &copied), (5, &taken)]
            .iter()
            .map(|(what, words)| [&[*what], &words[..]].concat())
            .collect();
    all.extend((0..6).map(|what| [&[what], &failed[..]].concat()));
    all
}

#[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
fn wal(start: u64, time: u64) -> Vec<u8> {
    let mut out = [&start.to_le_bytes()[..], &[0]].concat();
    for (position, data) in [(start, &[7; 30][..]), (start + 30, b"more")] {
        let mut message = vec![b'w'];
        [position, position + 4, time].iter().for_each(|n| message.extend_from_slice(&n.to_be_bytes()));
        message.extend_from_slice(data);
        out.extend_from_slice(&(message.len() as u16).to_le_bytes());
        out.extend(message);
    }
    let alive = [&b"k"[..], &(start + 34).to_be_bytes(), &time.to_be_bytes(), &[0]].concat();
    out.extend_from_slice(&(alive.len() as u16).to_le_bytes());
    out.extend(alive);
    out
}

/// A tar of one file.
fn tar() -> Vec<u8> {
    let mut head = [0; 512];
    head[..10].copy_from_slice(b"PG_VERSION");
    head[100..107].copy_from_slice(b"0000600");
    head[124..135].copy_from_slice(b"00000000003");
    head[148..156].copy_from_slice(b"        ");
    head[156] = b'0';
    head[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = head.to_vec();
    out.extend_from_slice(b"15\n");
    out.resize(512 * 4, 0);
    out
}

fn base_backup() -> Vec<u8> {
    let answers = [
        let_in(),
        row(&["7300000000000000001", "1", "0/1000000", ""]),
        ready(),
        row(&["16MB"]),
        ready(),
        row(&["slot", "0/1000000"]),
        ready(),
        row(&["0/2000028", "1"]),
        message(b'C', b"SELECT\0"),
        row(&["", "", "30"]),
        message(b'C', b"SELECT\0"),
        message(b'H', b"\0\0\0"),
        message(b'd', b"nbase.tar\0\0"),
        message(b'd', &[b"d", &tar()[..]].concat()),
        message(b'd', b"p\0\0\0\0\0\0\x08\0"),
        message(b'd', b"n16400.tar\0/mnt/space\0"),
        message(b'd', &[b"d", &tar()[..]].concat()),
        message(b'd', b"m"),
        message(b'd', b"d{\"PostgreSQL-Backup-Manifest-Version\": 1}\n"),
        message(b'c', b""),
        row(&["0/2000100", "1"]),
        message(b'C', b"SELECT\0"),
        ready(),
    ];
    answers.concat()
}

fn answers() -> Vec<Vec<u8>> {
    let all: [&[u8]; 10] = [
        // Lengths of what does not come.
        b"$50000000\r\nabc",
        b"$99999999999\r\nabc",
        b"*600000\r\n:1\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        b"+OK\r\n",
        b"-WRONGTYPE Operation against a key\r\n",
        b":-42\r\n",
        b"$3\r\na\r\n\r\n",
        b"*3\r\n*1\r\n:1\r\n$-1\r\n$0\r\n\r\n",
        b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    ];
    all.map(<[u8]>::to_vec).into()
}

/// A dump of one key.
fn rdb() -> Vec<u8> {
    [b"REDIS0011\xfe\x00\x00\x01a\x01b\xff".as_slice(), &[0; 8]].concat()
}

fn transfers() -> Vec<Vec<u8>> {
    let head = b"+FULLRESYNC 8d1c7e2d2a1f0e9d8c7b6a5948372615041302f1 1234\r\n\n";
    let mark = b"0123456789abcdef0123456789abcdef01234567";
    let counted =
        [&head[..], format!("${}\r\n", rdb().len()).as_bytes(), &rdb(), b"*1\r\n$4\r\nPING\r\n"].concat();
    let marked = [&head[..], b"$EOF:", &mark[..], b"\r\n", &rdb(), &mark[..]].concat();
    vec![counted, marked, b"-NOPERM no right\r\n".to_vec(), [&head[..], b"-ERR no fork\r\n"].concat()]
}

/// Answers to all that is asked before, as if each were fine.
fn redis() -> Vec<Vec<u8>> {
    let fine = b"+OK\r\n".repeat(3);
    let whole: Vec<u8> = transfers().into_iter().flat_map(|sent| [&[0], &fine[..], &sent].concat()).collect();
    let single = [
        &b"\x01"[..],
        b"$30\r\n# Server\r\nredis_version:7.2.5\r\n\r\n",
        b"$34\r\n# Keyspace\r\ndb0:keys=1,expires=0\r\n\r\n",
        b"+OK\r\n*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n:-1\r\n$13\r\n\x00\x01b\x0b\x00\0\0\0\0\0\0\0\0\r\n",
    ];
    let counted = [&[0], &fine[..], &transfers()[0]].concat();
    vec![whole, counted, single.concat()]
}

fn printed() -> Vec<u8> {
    let mark = String::from_utf8_lossy(MARK);
    let text = "M\t0\nM\nshop\tm\\\\x\\n\nM\t0\nM\nM\t1\nError\t1146\tTable 'a\\nb' doesn't exist\nM\nM\t2\nM\nERROR 1045 (28000): no\n";
    text.replace('M', &mark).into_bytes()
}

fn dumps() -> Vec<Vec<u8>> {
    let head = "-- MariaDB dump 10.19\n/*!40101 SET NAMES utf8mb4 */;\n-- CHANGE MASTER TO MASTER_LOG_FILE='bin.000001', MASTER_LOG_POS=4;\n";
    let table = "DROP TABLE IF EXISTS `t``1`;\nCREATE TABLE `t``1` (`a` int COMMENT 'x;\\'y');\nINSERT INTO `t``1` VALUES\n(1),\n(2);\n";
    let database = |name: &str| {
        format!(
            "CREATE DATABASE /*!32312 IF NOT EXISTS*/ `{name}` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;\n\nUSE `{name}`;\n{table}{table}"
        )
    };
    let footer = "/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;\n-- Dump completed\n";
    let whole = [head, &database("shop"), &database("store"), footer].concat();
    [0, 6, 200].map(|part| [&[part], whole.as_bytes()].concat()).into()
}

fn event(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (19 + body.len()) as u32;
    [&[0; 4][..], &[kind], &[0; 4], &len.to_le_bytes(), &[0; 6], body].concat()
}

fn statement(fixed: usize, database: &[u8], text: &[u8]) -> Vec<u8> {
    let mut body = vec![0; fixed];
    body[8] = database.len() as u8;
    [&body, database, b"\0", text].concat()
}

fn logs() -> Vec<Vec<u8>> {
    let text = b"LOAD DATA LOCAL INFILE '/etc/shadow' INTO TABLE t";
    let mut load = statement(26, b"shop", text);
    load[13] = 7;
    load[17] = 9;
    load[21] = 41;
    // Of zlib, without compression: "DO 1".
    let packed = b"\x01\x04\x78\x01\x01\x04\0\xfb\xffDO 1\x02\x7d\x01\x25";
    let mut described = vec![0; 76];
    described.push(0);
    described.extend_from_slice(&[0; 4]);
    let events = [
        event(15, &described),
        event(162, &[0; 19]),
        event(2, &statement(13, b"shop", b"BEGIN")),
        event(2, &statement(13, b"shop", b"INSERT INTO t VALUES ('/*!*/;')")),
        event(165, &statement(13, b"shop", packed)),
        event(19, b"\0\0\0\0\0\0\0\0\x04shop\0\x03t\n1\0\x01\x03\0\x01"),
        event(23, &[1; 20]),
        event(14, b"\x02\0\0\0@x\x01"),
        event(17, b"\x07\0\0\0rows"),
        event(18, &load),
        event(4, b"\x04\0\0\0\0\0\0\0bin.000002"),
    ];
    let log = [b"\xfebin".to_vec(), events.concat()].concat();
    [0, 1, 8, 201].map(|how| [&[how], &log[..]].concat()).into()
}

/// Answers behind one byte, which says what is asked.
fn asked(what: u8, answers: &[&[u8]]) -> Vec<u8> {
    [&[what], &answers.join(&b"\n\0\n"[..])[..]].concat()
}

fn qdrant() -> Vec<Vec<u8>> {
    let cluster = br#"{"result":{"peer_id":7,"shard_count":2,"local_shards":[{"shard_id":0,"points_count":1,"state":"Active","shard_key":"a"}],"remote_shards":[{"shard_id":1,"peer_id":8,"state":"Dead"}]},"status":"ok","time":0.1}"#;
    let collection = br#"{"result":{"status":"green","config":{"params":{"vectors":{"size":4}}},"payload_schema":{"x":{"data_type":"geo","points":5}}}}"#;
    vec![
        asked(0, &[br#"{"title":"qdrant","version":"1.18.3","commit":"x"}"#]),
        asked(1, &[br#"{"result":{"collections":[{"name":"a/b"},{"name":"c"}]}}"#, collection]),
        asked(2, &[cluster]),
        asked(3, &[br#"{"result":{"status":"enabled","peers":{"7":{"uri":"http://x"}}}}"#, br#"{"result":{"aliases":[{"alias_name":"a","collection_name":"c"}]}}"#]),
        asked(4, &[br#"{"result":{"count":12}}"#, collection]),
        asked(5, &[b"HTTP/1.1 200 OK\r\nDate: Thu, 26 Nov 2026 12:00:00 GMT\r\nContent-Length: 43\r\n\r\n{\"result\":[{\"name\":\"c-1.snapshot\",\"size\":1}]}"]),
        asked(6, &[br#"{"result":{"name":"c-1.snapshot","checksum":"ab","size":1}}"#, br#"{"result":true}"#]),
        asked(7, &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n"]),
        asked(8, &[br#"{"result":true,"status":"ok"}"#]),
        asked(9, &[b"HTTP/1.1 403 Forbidden\r\nContent-Length: 38\r\n\r\n{\"status\":{\"error\":\"Invalid api-key x\"}}"]),
    ]
}

/// A number for a store and what is asked of it.
const fn number(is_azure: bool, what: u8) -> u8 {
    2 * what + is_azure as u8
}

fn cloud() -> Vec<Vec<u8>> {
    let (s3, azure) = (|what: u8| number(false, what), |what: u8| number(true, what));
    let hundred = [b'x'; 100];
    let ranged = [&b"HTTP/1.1 206 Partial Content\r\nETag: \"x\"\r\nLast-Modified: Thu, 26 Nov 2026 12:00:00 GMT\r\nContent-Range: bytes 5-104/200\r\nContent-Length: 100\r\n\r\n"[..], &hundred].concat();
    let head = b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nLast-Modified: Thu, 26 Nov 2026 12:00:00 GMT\r\nContent-Length: 100\r\nx-amz-storage-class: GLACIER\r\nx-amz-restore: ongoing-request=\"false\", expiry-date=\"Fri, 27 Nov 2026 00:00:00 GMT\"\r\nx-amz-object-lock-retain-until-date: 2027-01-01T00:00:00Z\r\nx-ms-access-tier: Archive\r\nx-ms-archive-status: rehydrate-pending-to-hot\r\n\r\n";
    let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: 63\r\n\r\n<Error><Code>AccessDenied</Code><Message>no</Message></Error>  ";
    let listed = br#"<?xml version="1.0"?><ListBucketResult><Name>b</Name><Prefix>p/packs/</Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken><Contents><Key>p/packs/x</Key><LastModified>2026-11-26T12:00:00.000Z</LastModified><ETag>"x"</ETag><Size>100</Size><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"#;
    let blobs = br#"<?xml version="1.0"?><EnumerationResults><Prefix>p/packs/</Prefix><Blobs><Blob><Name>p/packs/x</Name><Properties><Last-Modified>Thu, 26 Nov 2026 12:00:00 GMT</Last-Modified><Content-Length>100</Content-Length><Content-Type>a/b</Content-Type><Etag>0x1</Etag></Properties></Blob></Blobs><NextMarker/></EnumerationResults>"#;
    let versions = b"<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>p/packs/x</NextKeyMarker><NextVersionIdMarker>2</NextVersionIdMarker><Version><Key>p/packs/x</Key><VersionId>1</VersionId><IsLatest>false</IsLatest><LastModified>2026-11-26T12:00:00.000Z</LastModified><Size>5</Size></Version><DeleteMarker><Key>p/packs/x</Key><VersionId>2</VersionId><IsLatest>true</IsLatest></DeleteMarker></ListVersionsResult>";
    let rules = b"<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status><Filter><And><Prefix>p/</Prefix></And></Filter><Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>";
    let versioning = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let mut all = vec![];
    for of in [&s3 as &dyn Fn(u8) -> u8, &azure] {
        all.push(asked(of(0), &[b"{\"head\":1}"]));
        all.push(asked(of(1), &[&hundred]));
        all.push(asked(of(1), &[&[b'x'; 1500]]));
        all.push(asked(of(2), &[&ranged, head]));
        all.push(asked(of(3), &[&ranged]));
        all.push(asked(of(4), &[head]));
        all.push(asked(of(6), &[b""]));
        all.push(asked(of(6), &[b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n", b"abc"]));
        all.push(asked(of(7), &[refused]));
        all.push(asked(of(8), &[b"HTTP/1.1 204 No Content\r\n\r\n"]));
        all.push(asked(of(9), &[head, head]));
        all.push(asked(of(14), &[b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", b""]));
        all.push(asked(of(15), &[refused, b"abc", head]));
    }
    all.push(asked(s3(5), &[listed, listed]));
    all.push(asked(azure(5), &[blobs]));
    all.push(asked(s3(10), &[rules]));
    all.push(asked(s3(11), &[versioning, versions, versions]));
    all.push(asked(s3(12), &[versions, b"<ListVersionsResult/>", b"", b""]));
    all.push(asked(s3(13), &[versions, b"<ListVersionsResult/>", head, b""]));
    all
}
