"""The parametric person: rig, fit to a photo or video, posing."""
