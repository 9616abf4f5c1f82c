"""Does a policy save energy? Closed-loop drives, paired with the default map's, and a report."""
