# home-manager imports this for modular services, which nothing here uses.
{ }
