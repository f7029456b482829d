//! Landlock: which files a process may open at all, and that it reaches nobody outside by signal or abstract socket.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, Scope, path_beneath_rules,
};

use crate::{Access, Grant, WallError};

/// What the rules were written and tested for. Older kernels enforce what they know of it.
const KNOWN: ABI = ABI::V6;

/// Applies to the calling thread and all it starts. Whether the kernel enforces anything.
pub(crate) fn restrict(
    grants: &[Grant],
    own_view: bool,
    runs_programs: bool,
) -> Result<bool, WallError> {
    let failed = |error: landlock::RulesetError| WallError::new("landlock", error);
    let execute = if runs_programs {
        AccessFs::Execute.into()
    } else {
        BitFlags::EMPTY
    };
    let read = AccessFs::ReadFile | AccessFs::ReadDir | execute;
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let write = (AccessFs::from_all(KNOWN) & !devices & !AccessFs::Execute) | execute;
    let paths = |access: Access| {
        let of_kind = grants.iter().filter(move |grant| grant.access == access);
        of_kind.map(|grant| grant.path.as_path())
    };
    // There the processes of others are not to be seen anyway.
    let processes: &[&str] = if own_view {
        &["/proc"]
    } else {
        &["/proc/self"]
    };
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .and_then(|created| created.add_rules(path_beneath_rules(paths(Access::Read), read)))
        .and_then(|created| created.add_rules(path_beneath_rules(paths(Access::Write), write)))
        .and_then(|created| created.add_rules(path_beneath_rules(processes, read)))
        .and_then(|created| created.restrict_self())
        .map_err(failed)?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
