//! The forms that there are: the tests' data, of which docs/places.md is made.

use super::*;

/// What is written, and what it is.
const ACCEPTED: &[(&str, &str)] = &[
    ("/srv/esker", "folder /srv/esker"),
    ("esker", "folder esker"),
    ("backups/esker", "folder backups/esker"),
    ("there.example.org/esker", "folder there.example.org/esker"),
    ("../esker", "folder ../esker"),
    ("./a:b", "folder ./a:b"),
    ("/srv/a:b", "folder /srv/a:b"),
    ("./~", "folder ./~"),
    ("/srv/with blank/esker", "folder /srv/with blank/esker"),
    ("file:/srv/esker", "folder /srv/esker"),
    ("file:///srv/esker", "folder /srv/esker"),
    ("file://localhost/srv/esker", "folder /srv/esker"),
    ("FILE:/srv/esker", "folder /srv/esker"),
    ("file:a:b", "folder a:b"),
    ("file:sftp:x", "folder sftp:x"),
    ("local:/srv/esker", "folder /srv/esker"),
    ("s3://bucket", "bucket 'bucket' of the endpoint that is set, else of AWS"),
    ("s3://bucket/a/b", "bucket 'bucket', prefix 'a/b' of the endpoint that is set, else of AWS"),
    ("S3://bucket/a", "bucket 'bucket', prefix 'a' of the endpoint that is set, else of AWS"),
    ("s3://my.bucket/a", "bucket 'my.bucket', prefix 'a' of the endpoint that is set, else of AWS"),
    ("s3:bucket", "bucket 'bucket' of the endpoint that is set, else of AWS"),
    ("s3:bucket/a/", "bucket 'bucket', prefix 'a' of the endpoint that is set, else of AWS"),
    ("s3:https://minio.example.org/bucket", "bucket 'bucket' at https://minio.example.org"),
    (
        "s3:https://minio.example.org:9000/bucket/a",
        "bucket 'bucket', prefix 'a' at https://minio.example.org:9000",
    ),
    ("s3:http://127.0.0.1:9000/bucket/a/b", "bucket 'bucket', prefix 'a/b' at http://127.0.0.1:9000"),
    ("S3:HTTPS://minio/bucket", "bucket 'bucket' at https://minio"),
    (
        "s3:s3.eu-central-1.amazonaws.com/bucket/a",
        "bucket 'bucket', prefix 'a' at https://s3.eu-central-1.amazonaws.com",
    ),
    ("s3:localhost:9000/bucket", "bucket 'bucket' at https://localhost:9000"),
    ("s3:localhost/bucket", "bucket 'bucket' at https://localhost"),
    ("azure://container", "container 'container'"),
    ("azure://container/a/b", "container 'container', prefix 'a/b'"),
    ("azure:container/a", "container 'container', prefix 'a'"),
    ("azure:container:/a", "container 'container', prefix 'a'"),
    ("Azure://container/a", "container 'container', prefix 'a'"),
];

/// What is written, and what the message has to say.
const REFUSED: &[(&str, &str)] = &[
    ("", "the place is blank"),
    (" ", "the place is blank"),
    ("\t\n", "the place is blank"),
    (" /srv/esker", "begins or ends with a blank"),
    ("/srv/esker\n", "begins or ends with a blank"),
    ("s3://bucket/a ", "begins or ends with a blank"),
    ("/srv/es\nker", "a control character"),
    ("a:b", "no repositories on 'a:'"),
    ("sftp:user@host:/srv/esker", "no repositories on 'sftp:'"),
    ("sftp://user@host/srv/esker", "no repositories on 'sftp://'"),
    ("ssh://host/srv/esker", "no repositories on 'ssh://'"),
    ("host:/srv/esker", "no repositories on 'host:'"),
    ("user@host:srv/esker", "no repositories on 'user@host:'"),
    ("rest:https://host/esker", "no repositories on 'rest:'"),
    ("rclone:remote:path", "no repositories on 'rclone:'"),
    ("b2:bucket:path", "no repositories on 'b2:'"),
    ("gs:bucket:/path", "no repositories on 'gs:'"),
    ("swift:container:/path", "no repositories on 'swift:'"),
    ("s3x:bucket", "no repositories on 's3x:'"),
    ("ftp://host/esker", "no repositories on 'ftp://'"),
    ("https://minio.example.org/bucket", "s3:https://HOST/BUCKET"),
    ("localhost:9000/bucket", "no repositories on 'localhost:'"),
    ("127.0.0.1:9000/bucket", "no repositories on '127.0.0.1:'"),
    ("C:\\backup", "a path of Windows"),
    ("c:/backup", "a path of Windows"),
    ("\\\\server\\share", "a path of Windows"),
    (":", "no repositories on ':'"),
    ("~/esker", "only a shell knows '~'"),
    ("s3.amazonaws.com/bucket", "s3:https://s3.amazonaws.com/bucket"),
    ("minio.example.org/bucket/a", "s3:https://minio.example.org/bucket/a"),
    ("file:", "no folder"),
    ("file://", "names another host"),
    ("file://host/srv/esker", "names another host"),
    ("local:", "no folder"),
    ("s3:", "no bucket"),
    ("s3://", "no bucket"),
    ("s3:///a", "no bucket"),
    ("s3:https://", "no host"),
    ("s3:https://minio.example.org", "no bucket"),
    ("s3:https://minio.example.org/", "no bucket"),
    ("s3:minio.example.org", "no bucket"),
    ("s3:ftp://host/bucket", "https or http"),
    ("s3://host:9000/bucket", "no bucket's name"),
    ("s3:https://key:secret@host/bucket", "credentials do not belong into a place"),
    ("azure:", "no container"),
    ("azure:///a", "no container"),
    ("azure://account.blob/a", "no container's name"),
];

/// The one folder that is there.
fn exists(path: &Path) -> bool {
    path == Path::new("there.example.org")
}

fn meaning(form: &Form) -> String {
    let within = |prefix: &str| match prefix {
        "" => String::new(),
        prefix => format!(", prefix '{prefix}'"),
    };
    match form {
        Form::Folder(path) => format!("folder {}", path.display()),
        Form::S3 { endpoint, bucket, prefix } => {
            let at = match endpoint {
                Some(endpoint) => format!("at {endpoint}"),
                None => "of the endpoint that is set, else of AWS".into(),
            };
            format!("bucket '{bucket}'{} {at}", within(prefix))
        }
        Form::Azure { container, prefix } => format!("container '{container}'{}", within(prefix)),
    }
}

#[test]
fn places_are_what_the_table_says() {
    for (text, expected) in ACCEPTED {
        let form = Form::parse(text, exists).unwrap_or_else(|why| panic!("{text:?}: {why}"));
        assert_eq!(meaning(&form), *expected, "{text:?}");
    }
    for (text, expected) in REFUSED {
        let why = Form::parse(text, exists).err().unwrap_or_else(|| panic!("{text:?} is taken"));
        assert!(why.contains(expected), "{text:?}: {why}");
    }
}

/// What the page says of credentials; tests/aws_roles.rs and tests/azure_identities.rs try it.
const CREDENTIALS: &str = "
## How credentials are found

Keys are not part of a place. The first line that fits is the one that counts; what it names and does not get is an error, and
the next line is not tried. For S3 and for AWS KMS, in the order of the SDKs of AWS (\"Credential provider chain\", AWS SDK
for Java 2.x developer guide; `create_credential_resolver` of botocore):

| set | credentials | of |
|---|---|---|
| `profile` of the tier | keys of that profile, in `~/.aws/credentials` or `~/.aws/config` | a user |
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and `AWS_SESSION_TOKEN` of temporary ones | these | a user |
| `AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_ROLE_ARN`; `AWS_ROLE_SESSION_NAME`, else `esker` | AWS STS of the region gives them for the token in the file; `AWS_ENDPOINT_URL_STS` for another STS | EKS: IAM roles for service accounts; any issuer that the role trusts |
| `AWS_PROFILE`, else the profile `default` | keys of that profile | a user |
| `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` | http://169.254.170.2 and this path | ECS: the role of the task |
| `AWS_CONTAINER_CREDENTIALS_FULL_URI`; `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE` or `AWS_CONTAINER_AUTHORIZATION_TOKEN` | this URL, which gets the token: https, or http to this machine or a link-local address | EKS: Pod Identity; Greengrass |
| nothing; `AWS_EC2_METADATA_SERVICE_ENDPOINT`, or `AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6` | the metadata service at http://169.254.169.254, version 2 only; not with `AWS_EC2_METADATA_DISABLED=true` | EC2: the role of the instance |

Of a profile, esker reads keys, `region` and `endpoint_url`. A profile without both keys that has `role_arn`, `sso_*` or
`credential_process` is refused: no other identity takes its place. The files are elsewhere with
`AWS_SHARED_CREDENTIALS_FILE` and `AWS_CONFIG_FILE`.

For Azure, in the order of its own tools (`DefaultAzureCredential`). Key Vault takes all but the first two:

| set | credentials | of |
|---|---|---|
| `AZURE_STORAGE_KEY` | this key | the storage account |
| `AZURE_STORAGE_SAS_TOKEN` | this signature | whoever signed it |
| `AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_CLIENT_SECRET` | a token of https://login.microsoftonline.com for the secret; `AZURE_AUTHORITY_HOST` for another cloud | a service principal |
| `AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_FEDERATED_TOKEN_FILE` | the same for the token in the file | AKS: workload identity |
| `IDENTITY_ENDPOINT`, `IDENTITY_HEADER`; `AZURE_CLIENT_ID` | a token of that URL | App Service, Functions, Container Apps |
| `IDENTITY_ENDPOINT`, `IMDS_ENDPOINT` | a token of the agent at that URL | Azure Arc |
| nothing; `AZURE_CLIENT_ID` of several identities | the metadata service at http://169.254.169.254; `AZURE_POD_IDENTITY_AUTHORITY_HOST` for another | a virtual machine: its managed identity |

- What is given for a time is renewed five minutes before its end, or after half of its time if that is sooner. Files with tokens are read
  anew each time. As long as the old credentials are good, a service that does not answer stops nothing.
- A service of the machine is asked without a proxy, follows nobody elsewhere, and is given up after a few seconds. A store that needs it ends
  the command with code 1 and with what to set; a key service with 29 (exit-codes.md).
- A proof goes to the host that is named above and to no other: over https with a verified certificate, whatever `--insecure-tls` says, or to this
  machine. A token of Azure is shown to the store itself; esker refuses a store with plain http or with `--insecure-tls` then.
- The role needs the rights of a user: for S3 `s3:GetObject`, `s3:PutObject`, `s3:DeleteObject` and `s3:ListBucket`; for Azure
  the role Storage Blob Data Contributor on the container. hardening.md and hosts.md have narrower ones.
";

/// The page, from the tables.
fn page() -> String {
    let mut text = String::from(
        "# Places: how to write where a repository or a tier is\n\n\
        These forms are the same in `-r`, `ESKER_REPOSITORY`, a repository file, `--from-repo`, and `repository` and `url`\n\
        of esker.toml. A test writes this page: `cli/src/places/forms_table.rs`.\n\n\
        `s3:` followed by a name without dot and colon means a bucket; by a name with one, a host. Write a bucket whose name\n\
        has dots as `s3://BUCKET`. In the table, `there.example.org` is an existing folder.\n\n\
        | written | means |\n|---|---|\n",
    );
    let code = |text: &str| format!("`{}`", text.escape_debug().to_string().replace("\\'", "'"));
    for (written, is) in ACCEPTED {
        text += &format!("| {} | {is} |\n", code(written));
    }
    text += "\n| written | refused, because |\n|---|---|\n";
    for (written, why) in REFUSED {
        text += &format!("| {} | {why} |\n", code(written));
    }
    text + CREDENTIALS
}

#[test]
fn the_page_says_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/places.md");
    let there = std::fs::read_to_string(path).unwrap_or_default();
    if there != page() && std::env::var_os("ESKER_WRITE_PAGES").is_some() {
        std::fs::write(path, page()).unwrap();
        return;
    }
    assert_eq!(there, page(), "run this test with ESKER_WRITE_PAGES=1 to write the page anew");
}
