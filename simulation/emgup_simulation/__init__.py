"""The simulation driver: experiments, the Flower launcher, reports and the `emgup` command line."""
