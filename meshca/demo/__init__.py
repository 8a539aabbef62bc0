"""The main job on real Envoys, live: what a newcomer sees first, and what the end-to-end tests drive."""
