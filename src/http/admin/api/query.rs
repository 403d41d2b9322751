//! From the parameters of a URL to a question.

use time::OffsetDateTime;

use super::parameters::Parameters;
use crate::db::queries::bulks::Bulks;
use crate::db::queries::conflicts::{self, Conflicts};
use crate::db::queries::executions::{self, Executions};
use crate::db::queries::failures::{self, FailureQuery};
use crate::db::queries::overview::OverviewQuery;
use crate::db::queries::page::List;
use crate::db::queries::quarantine::Quarantine;
use crate::db::queries::results::{self, ResultsQuery};
use crate::db::queries::workflows::{self, Workflows};
use crate::db::queries::{Query, page};
use crate::http::problem::Problem;

/// A question that a URL can ask.
pub(super) trait FromQuery: Query + Sized {
    /// Takes what it needs from the parameters.
    fn read(parameters: &mut Parameters) -> Result<Self, Problem>;
}

impl FromQuery for Executions {
    fn read(p: &mut Parameters) -> Result<Self, Problem> {
        let filter = executions::Filter {
            status: p.text("status")?,
            workflow: p.text("workflow")?,
            bulk: p.text("bulk")?,
            cause: p.text("cause")?,
        };
        Ok(Self { filter, period: p.period()?, page: p.page(List::Executions)? })
    }
}

impl FromQuery for ResultsQuery {
    fn read(p: &mut Parameters) -> Result<Self, Problem> {
        let filter = results::Filter {
            execution: p.text("execution")?,
            workflow: p.text("workflow")?,
            bulk: p.text("bulk")?,
        };
        Ok(Self { filter, period: p.period()?, page: p.page(List::Results)? })
    }
}

impl FromQuery for Bulks {
    fn read(p: &mut Parameters) -> Result<Self, Problem> {
        Ok(Self { complete: p.choice("complete")?, period: p.period()?, page: p.page(List::Bulks)? })
    }
}

impl FromQuery for Conflicts {
    fn read(p: &mut Parameters) -> Result<Self, Problem> {
        let filter = conflicts::Filter { execution: p.text("execution")? };
        Ok(Self { filter, period: p.period()?, page: p.page(List::Conflicts)? })
    }
}

impl FromQuery for Quarantine {
    fn read(p: &mut Parameters) -> Result<Self, Problem> {
        Ok(Self { period: p.period()?, page: p.page(List::Quarantine)? })
    }
}

impl FromQuery for FailureQuery {
    fn read(p: &mut Parameters) -> Result<Self, Problem> {
        Ok(Self {
            by: p.choice("by")?.unwrap_or_default(),
            filter: failures::Filter { workflow: p.text("workflow")?, bulk: p.text("bulk")? },
            period: p.period()?,
            limit: p.number("limit", page::DEFAULT_LIMIT, page::MAX_LIMIT)?,
        })
    }
}

impl FromQuery for Workflows {
    fn read(p: &mut Parameters) -> Result<Self, Problem> {
        Ok(Self {
            days: p.number("days", workflows::DEFAULT_DAYS, workflows::MAX_DAYS)?,
            order: p.choice("order")?.unwrap_or_default(),
            limit: p.number("limit", page::DEFAULT_LIMIT, page::MAX_LIMIT)?,
        })
    }
}

impl FromQuery for OverviewQuery {
    fn read(p: &mut Parameters) -> Result<Self, Problem> {
        let by = p.choice("by")?.unwrap_or_default();
        let period = p.period()?;
        Ok(Self::new(by, period, p.text("workflow")?, OffsetDateTime::now_utc()))
    }
}
