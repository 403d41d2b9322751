//! Examples in the long help (`--help`) and the manual pages.

macro_rules! examples {
    ($($name:ident $first:literal $($line:literal)*;)*) => {
        $(
            #[doc = concat!("Of `", $first, "`.")]
            pub(crate) const $name: &str = concat!("Examples:\n  workflow-receiver ", $first $(, "\n  workflow-receiver ", $line)*);
        )*
    };
}

examples! {
    STATUS "status" "status --json";
    EXECUTIONS "executions --status failed --since 1h"
        "executions --workflow product-video --cause timeout --since yesterday"
        "executions --reference order=1234"
        "executions exec-104";
    RESULTS "results --bulk spring-catalogue --all" "results --reference order=1234 --json";
    BULKS "bulks --complete no" "bulks spring-catalogue" "bulks set-size spring-catalogue 40"
        "bulks set-size spring-catalogue --unset";
    EXPECTED "expected --state overdue" "expected --bulk spring-catalogue --json";
    REGISTER "register response.json" "register response.json --reference order=1234" "register - < responses.jsonl";
    TRIGGER "trigger inputs.json --workflow product-video --workflow-version 3 --reference order=1234";
    BULK_TRIGGER "bulk-trigger inputs.json --workflow product-video --workflow-version 3 > response.json";
    EXPORT "export executions --status failed --since 7d --format csv -o failed.csv"
        "export results --bulk spring-catalogue --format urls"
        "export bulks --complete no | jq -r .bulk_id";
    FAILURES "failures --since 1h" "failures --by model --since today --workflow product-video";
    WORKFLOWS "workflows --days 7" "workflows --by failed";
    CONFLICTS "conflicts --since 1d" "conflicts exec-104";
    FOLLOW "follow" "follow --status failed" "follow --bulk spring-catalogue --json";
    SEND_TEST "send-test" "send-test --status failed";
    QUARANTINE "quarantine list --by-reason" "quarantine show 17"
        "quarantine retry 17 --dry-run --map execution_id=executionId --map bulk_id=bulkId"
        "quarantine undo 17" "quarantine undo --since 10m" "quarantine drop 17";
    RECONCILE "reconcile --since yesterday" "reconcile --bulk spring-catalogue" "reconcile exec-104 --dry-run";
}
