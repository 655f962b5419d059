"""Names, profiles, issuing and verification of certificates, and their inventory. Imports no other package of ours."""
