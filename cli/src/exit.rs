//! What a process's exit code says. The numbers are part of the command line's contract: docs/CLI.md.

use crossdock_topics::ErrorCode;

/// Why the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done as asked.
    Done = 0,
    /// Failed for a reason without a number of its own.
    Failed = 1,
    /// The command line, a file or a value is wrong; asking again will not help.
    Usage = 2,
    /// What is named does not exist.
    NotFound = 3,
    /// The credentials are missing, wrong, or not enough.
    Denied = 4,
    /// Nobody could do it now: not reachable, overloaded, draining, or too late.
    Unavailable = 5,
    /// It exists already, is in use, or has changed meanwhile.
    Conflict = 6,
    /// The user's own code failed, at its deployment or in a call.
    ServiceFailed = 7,
    /// A second Ctrl-C ended it at once.
    Interrupted = 130,
}

impl From<ErrorCode> for Exit {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidArgument | ErrorCode::TooLarge | ErrorCode::UnsupportedContent => Self::Usage,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Unauthenticated | ErrorCode::PermissionDenied => Self::Denied,
            ErrorCode::Unavailable | ErrorCode::Timeout | ErrorCode::Overloaded => Self::Unavailable,
            ErrorCode::Conflict | ErrorCode::AlreadyExists => Self::Conflict,
            ErrorCode::ServiceFailed => Self::ServiceFailed,
            ErrorCode::Internal => Self::Failed,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_code_has_the_exit_code_that_the_documentation_says() {
        let documented = include_str!("../../docs/CLI.md");
        for (code, number) in [
            (ErrorCode::Internal, 1),
            (ErrorCode::InvalidArgument, 2),
            (ErrorCode::TooLarge, 2),
            (ErrorCode::UnsupportedContent, 2),
            (ErrorCode::NotFound, 3),
            (ErrorCode::Unauthenticated, 4),
            (ErrorCode::PermissionDenied, 4),
            (ErrorCode::Unavailable, 5),
            (ErrorCode::Timeout, 5),
            (ErrorCode::Overloaded, 5),
            (ErrorCode::Conflict, 6),
            (ErrorCode::AlreadyExists, 6),
            (ErrorCode::ServiceFailed, 7),
        ] {
            assert_eq!(Exit::from(code) as u8, number, "{code}");
            let row = documented.lines().find(|line| line.starts_with(&format!("| {number} |")));
            assert!(
                row.is_some_and(|row| row.contains(&format!("`{code}`"))),
                "{code} is not in row {number}"
            );
        }
    }
}
