"""Raw CAN logs to signals: readers, DBC database, vectorised decode, resampling onto the vehicle's grid."""
