//! A caller and the lists that say what it may do.

use crate::acls::Acls;
use crate::action::Action;

/// Whoever makes a request, with the lists it is looked up in.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    pub acls: &'a Acls,
    /// None of a caller who was not asked who it is.
    pub principal: Option<&'a str>,
}

/// What a caller may not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{who} is not authorized to {what} (ACL '{}')", action.list())]
pub struct Denied {
    who: String,
    what: String,
    action: Action,
}

impl Caller<'_> {
    pub fn may(&self, action: Action, object: Option<&str>) -> bool {
        self.acls.permit(self.principal, action, object)
    }

    pub fn permit(&self, action: Action, object: Option<&str>) -> Result<(), Denied> {
        if self.may(action, object) {
            Ok(())
        } else {
            Err(self.denied(action, object))
        }
    }

    /// For an object of which it is not known what it is: only who may do it to every object may do it to this one.
    pub fn permit_unknown(&self, action: Action) -> Result<(), Denied> {
        if self.acls.permit_all(self.principal, action) {
            Ok(())
        } else {
            Err(self.denied(action, None))
        }
    }

    /// All or nothing.
    pub fn permit_each<T>(
        &self,
        action: Action,
        items: &[T],
        object: fn(&T) -> Option<&str>,
    ) -> Result<(), Denied> {
        items
            .iter()
            .try_for_each(|item| self.permit(action, object(item)))
    }

    fn denied(&self, action: Action, object: Option<&str>) -> Denied {
        Denied {
            who: match self.principal {
                Some(principal) => format!("Principal '{principal}'"),
                None => "A caller without a principal".to_owned(),
            },
            what: match object {
                Some(object) => format!("do this to '{object}'"),
                None => "do this".to_owned(),
            },
            action,
        }
    }
}
