"""Values by training again on subsets: samplers, stopping rules, workers and a cache, shared by one file a method."""
