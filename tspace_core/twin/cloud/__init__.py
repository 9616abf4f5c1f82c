"""The twin in the cloud: a truck behind a telematics box, and the remote CAN service that speaks for it."""
