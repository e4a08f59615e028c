"""Everything that runs: one package a service, and the chassis they stand on."""
