"""What each process of a deployed client may touch: files, network, signals. The Linux kernel sees to it, without root."""
