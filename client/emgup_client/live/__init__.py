"""The personalized model in use: samples from a recording or a live stream, one decision per hop."""
