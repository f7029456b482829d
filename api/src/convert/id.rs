//! Ids both ways. The model does not check ids either, so nothing can fail here.

use crate::v1;

macro_rules! id {
    ($($wire:ident $model:ident;)+) => {
        $(
            impl From<&tepui_model::$model> for v1::$wire {
                fn from(id: &tepui_model::$model) -> Self {
                    id.as_str().into()
                }
            }

            impl From<tepui_model::$model> for v1::$wire {
                fn from(id: tepui_model::$model) -> Self {
                    (&id).into()
                }
            }

            impl From<&v1::$wire> for tepui_model::$model {
                fn from(id: &v1::$wire) -> Self {
                    id.value.as_str().into()
                }
            }

            impl From<v1::$wire> for tepui_model::$model {
                fn from(id: v1::$wire) -> Self {
                    id.value.into()
                }
            }
        )+
    };
}

macro_rules! text {
    ($($wire:ident),+) => {
        $(
            impl From<&str> for v1::$wire {
                fn from(id: &str) -> Self {
                    id.to_owned().into()
                }
            }

            impl From<String> for v1::$wire {
                fn from(value: String) -> Self {
                    Self { value, ..Self::default() }
                }
            }
        )+
    };
}

id! {
    AgentId AgentId;
    FrameworkId FrameworkId;
    TaskId TaskId;
    ExecutorId ExecutorId;
    OfferId OfferId;
    ContainerId ContainerId;
}

#[allow(
    clippy::needless_update,
    reason = "only one of the ids has further fields"
)]
mod texts {
    use super::v1;

    text!(
        AgentId,
        FrameworkId,
        TaskId,
        ExecutorId,
        OfferId,
        ContainerId,
        OperationId,
        ResourceProviderId
    );
}

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn ids_keep_their_text_in_both_directions() {
        let model = tepui_model::AgentId::new("S1");
        let wire = v1::AgentId::from(&model);
        assert_eq!(wire.value, "S1");
        assert_eq!(tepui_model::AgentId::from(&wire), model);
        assert_eq!(v1::ContainerId::from("c").parent, None);
    }
}
