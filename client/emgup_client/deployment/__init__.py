"""The deployed client: the user's own installed code, behind a SuperNode that runs no bundle but the pinned one."""
