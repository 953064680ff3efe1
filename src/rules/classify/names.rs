//! What the names of tables and columns say, in English, and in some words of German, French, Spanish and a few more.

/// What a word in a column's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// By itself.
    Class,
    /// As the whole name of a column of a table about persons (or their addresses).
    InPersons,
    /// If the values look like it.
    WithValues,
}

/// What a column's name says, and the word that says it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub class: &'static str,
    pub word: &'static str,
    pub says: Says,
}

/// Words as they are without `_`: whole parts of a name, one after the other, must make up the word. Without a class: means
/// something else.
const WORDS: &[(&str, Says, &str)] = &[
    (
        "pii.name",
        Says::Class,
        "firstname lastname fname lname middlename givenname familyname forename surname maidenname fullname birthname \
         realname pocname firstnames lastnames customername patientname employeename personname contactname contactperson \
         guestname passengername studentname membername recipientname sendername beneficiaryname ownername holdername \
         accountholder accountholdername cardholder cardholdername nameoncard nextofkin mothername fathername spousename \
         emergencycontact emergencycontactname doctorname drivername buyername vorname nachname familienname geburtsname \
         ansprechpartner kundenname prenom prenoms nomfamille nomdefamille apellido apellidos primerapellido segundoapellido \
         nombrecompleto cognome voornaam achternaam",
    ),
    ("pii.name", Says::InPersons, "name names nom nombre nombres nome naam imie nazwisko commentauthor"),
    (
        "pii.handle",
        Says::Class,
        "username userlogin login loginname nickname screenname nicename usernicename handle benutzername nutzername \
         nombreusuario nomutilisateur twitter twitterhandle facebook facebookhandle instagram linkedin skype telegram",
    ),
    ("pii.handle", Says::InPersons, "displayname pseudo nick usuario identifiant"),
    (
        "pii.email",
        Says::Class,
        "email emails mail emailaddress mailaddress emailadresse mailadresse correo correoelectronico courriel",
    ),
    (
        "pii.phone",
        Says::Class,
        "phone phonenumber phoneno phones telephone telephonenumber tel telefon telefonnummer telefono telefone mobile \
         mobilephone mobilenumber mobil mobilnummer handy handynummer cellphone cell fax faxnumber movil celular msisdn \
         whatsapp rufnummer phn",
    ),
    (
        "pii.address",
        Says::Class,
        "address addr addressline streetaddress street streetname strasse hausnummer housenumber anschrift adresse adresse \
         lieferadresse rechnungsadresse direccion domicilio calle rue indirizzo endereco adres homeaddress wohnort residence",
    ),
    ("pii.address", Says::InPersons, "city town ville ciudad ort stadt apartment suburb"),
    ("pii.postcode", Says::Class, "zip zipcode postcode mailcode postalcode postal plz postleitzahl codepostal codigopostal"),
    (
        "pii.birth_date",
        Says::Class,
        "dob birthdate birthday dateofbirth bornon birthyear yearofbirth geburtsdatum geburtstag geburtsjahr datenaissance \
         datedenaissance fechanacimiento fechadenacimiento datanascita datadinascita datanascimento",
    ),
    ("pii.birth_date", Says::InPersons, "age birth born bday edad alter"),
    (
        "pii.national_id",
        Says::Class,
        "ssn socialsecurity socialsecurityno socialsecuritynumber nationalid nationalidnumber personalid nationalinsurance \
         nationalinsurancenumber nino nhsnumber passport passportno passportnumber idcard idcardnumber identitycard \
         identitynumber driverlicense driverslicense driverlicensenumber driverslicensenumber driverlicence drivinglicence \
         steuerid steuernummer identifikationsnummer ausweisnummer personalausweis reisepass sozialversicherungsnummer svnr \
         rentenversicherungsnummer versichertennummer krankenversicherungsnummer dni nif curp cpf pesel bsn \
         burgerservicenummer personnummer codicefiscale numeroidentificacion numerodocumento numerosecuritesociale \
         securitesociale insurancenumber insuranceid healthinsurancenumber medicalrecordnumber mrn aadhaar aadhar nric hkid",
    ),
    (
        "pii.national_id",
        Says::InPersons,
        "taxid taxnumber nir nie tin rut rfc documento licensenumber licencenumber vatnumber vatid",
    ),
    (
        "pii.ip_address",
        Says::Class,
        "ip ips ipaddress ipaddr ipadresse adresseip direccionip ipv4 ipv6 remoteaddr remoteaddress clientip remoteip",
    ),
    (
        "pii.location",
        Says::Class,
        "latitude longitude lat lng lon latlng latlon coordinates geolocation gps gpsposition homelocation currentlocation \
         lastlocation lastknownlocation currentposition lastposition breitengrad laengengrad",
    ),
    ("pii.location", Says::InPersons, "location position geo geom coords"),
    ("pii.gender", Says::Class, "gender genderidentity sex geschlecht sexe sexo genero"),
    ("pii.gender", Says::InPersons, "genre anrede"),
    (
        "special.health",
        Says::Class,
        "diagnosis diagnoses diagnose diagnostico icd icd9 icd10 icdcode bloodtype bloodgroup blutgruppe tiposangre \
         groupesanguin gruposanguineo allergy allergies allergie allergien alergia alergias medication medications medikament \
         medikamente medicamento medicamentos prescription dosage symptom symptoms symptome sintomas chiefcomplaint medical \
         clinicalnotes disability disabilities schwerbehinderung handicap discapacidad illness disease diseases krankheit \
         krankheiten maladie enfermedad hiv hivstatus pregnancy pregnant treatment therapy therapie vaccination vaccine \
         impfung immunization bmi heartrate bloodpressure glucose cholesterol smokingstatus mentalhealth healthcondition \
         healthnotes healthhistory sickleave krankmeldung",
    ),
    (
        "special.health",
        Says::InPersons,
        "healthstatus weight weightkg weightlb height heightcm smoker peso altura gewicht health",
    ),
    (
        "special.religion",
        Says::Class,
        "religion religiousaffiliation religiousbelief faith konfession religionszugehoerigkeit glaube croyance creencia",
    ),
    ("special.ethnicity", Says::Class, "ethnicity ethnic ethnicorigin ethnicgroup racialorigin ethnie etnia ethnische"),
    ("special.ethnicity", Says::InPersons, "race raza"),
    (
        "special.biometric",
        Says::Class,
        "biometric biometrics biometrie fingerprinttemplate fingerprintdata fingerprintimage fingerabdruck facetemplate \
         faceembedding faceencoding faceprint facialfeatures iristemplate irisscan retinascan voiceprint palmprint dnaprofile \
         dnasequence genome",
    ),
    ("special.biometric", Says::InPersons, "fingerprint fingerprints iris dna"),
    ("special.sex_life", Says::Class, "sexualorientation sexuality sexuelleorientierung"),
    ("special.political", Says::Class, "politicalopinion politicalaffiliation politicalparty tradeunion unionmembership"),
    ("financial.iban", Says::Class, "iban ibans ibannumber"),
    (
        "financial.account",
        Says::Class,
        "bankaccount bankaccountnumber bankaccountno accountnumber accountno acctno acctnumber kontonummer bankverbindung \
         numerocompte numerocuenta cuentabancaria routingnumber sortcode bankleitzahl",
    ),
    (
        "financial.salary",
        Says::Class,
        "salary salaries wage wages gehalt bruttogehalt nettogehalt lohn stundenlohn salaire salairebrut sueldo salario \
         stipendio vencimento compensation basepay grosspay netpay hourlyrate payrate annualincome householdincome \
         monthlyincome einkommen",
    ),
    ("financial.salary", Says::InPersons, "income bonus pay"),
    (
        "pci.pan",
        Says::Class,
        "cardnumber cardno cardnum ccnumber ccnum creditcard creditcardnumber creditcardno debitcardnumber pan \
         primaryaccountnumber kreditkarte kreditkartennummer numerocarte numerotarjeta",
    ),
    ("pci.cvv", Says::Class, "cvv cvv2 cvc cvc2 cvvcode cvccode cardsecuritycode cardverificationvalue cardverificationcode"),
    ("pci.track", Says::Class, "trackdata track1data track2data magstripe magstripedata magneticstripe"),
    (
        "secret.password",
        Says::Class,
        "password passwd pwd passwort kennwort passphrase motdepasse motpasse mdp contrasena senha wachtwoord passwordhash \
         passworddigest passwordsalt userpass securityanswer secretanswer passwords",
    ),
    ("secret.password", Says::InPersons, "pass clave pin salt"),
    (
        "secret.token",
        Says::Class,
        "token tokens accesstoken refreshtoken apikey apitoken apisecret secret secrets secretkey clientsecret sessiontoken \
         sessionkey privatekey signingkey encryptionkey activationkey recoverycode recoverycodes backupcodes credential \
         credentials bearer jwt",
    ),
    ("secret.token", Says::WithValues, "key sessionid sid cookie accesskey"),
    (
        "",
        Says::Class,
        "macaddress webaddress walletaddress contractaddress memoryaddress streetview phoneprefix phonemodel mailserver \
         mailqueue lastlogin publickey primarykey foreignkey cachekey idempotencykey sortkey cellcount mobileapp faxable \
         emergencyroom certificatefingerprint keyfingerprint browserfingerprint healthcheck medicalcenter treatmentgroup \
         tokencount",
    ),
];

/// Before a word: a column that says so about it (`is_ ..`), or another thing's (`company_ ..`).
const FLAGS: &str = "is has had can should must allow allows require requires enable show hide use uses no num count total \
    send receive notify min max needs wants accepts ist hat est tiene";
const THINGS: &str = "loyalty gift membership library company bank product file template host server smtp device store shop \
    branch event table column role group plan project brand category site page building office supplier vendor school hotel \
    venue firma empresa societe domain app bot test sample";
/// After a word: something about it.
const AFTER: &str = "id ids at on count status state type types kind verified verification confirmed confirmation enabled \
    disabled template subject flag format length provider domain category sent expires expired expiry expiration exp attempts \
    policy rule rules pattern regex prefix version timezone preference preferences opt optin notification notifications method \
    frequency limit schema currency changed updated created date time by label title model os brand valid validated available \
    required visible public source reason score level rank unit units color queue server host port body content html campaign \
    list page url uri link path file image last last4 digits name month year hint attempt invalid retries ttl scope scopes \
    index sequence position order sort step option center centre fee cost price duration plan minutes hours days app room \
    quality attribute block blocked mode protocol";
/// What tables about persons are called; the last word counts.
const PERSONS: &str = "user customer client patient employee person people contact member student teacher doctor physician \
    nurse staff author guest passenger driver applicant candidate subscriber lead visitor donor resident citizen voter \
    beneficiary dependent relative spouse child children parent guardian player participant attendee worker manager agent \
    owner recipient sender buyer profile identity personnel cardholder caller respondent kunde kunden mitarbeiter patienten \
    benutzer nutzer mitglied mitglieder gast gaeste schueler lehrer personen angestellte teilnehmer utilisateur employe \
    salarie personne membre eleve etudiant adherent cliente usuario empleado persona paciente alumno estudiante profesor \
    profesore miembro socio trabajador dipendente dipendenti persone werknemer klant pracownik pracownicy funcionario \
    anstallda anstaellda";
/// Of a table's name that counts before them.
const WRAPPING: &str = "data daten daily info information detail profile record archive backup history old new tmp temp copy \
    table master list import export registry register view staging raw inventory";
/// Tables of addresses: of persons, unless something else is said.
const ADDRESSES: &str = "address addresse adresse adressen anschrift direccion";
/// Tables of things that have an address, a place, a network address, and no person.
const PLACES: &str = "warehouse store shop branch branche office facility facilitie company companie supplier venue location \
    hotel restaurant airport station city citie country countrie region zone stop route place poi property listing airline \
    school hospital bank building site port server host network device subnet router switch node interface vlan cluster \
    machine firewall filiale standort firma firmen lager tienda empresa magasin entreprise sensor";

fn has(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|w| w == word)
}

/// A name's parts, in lower case, without accents: `homeEmail2` is home, email, 2.
pub(super) fn parts(name: &str) -> Vec<String> {
    let mut parts: Vec<String> = vec![String::new()];
    let mut before = '_';
    let mut letters = name.chars().peekable();
    while let Some(letter) = letters.next() {
        let is_next_lower = letters.peek().is_some_and(|c| c.is_lowercase());
        let begins = letter.is_uppercase() && (before.is_lowercase() || before.is_uppercase() && is_next_lower)
            || letter.is_numeric() != before.is_numeric() && letter.is_alphanumeric();
        if begins || !letter.is_alphanumeric() {
            parts.push(String::new());
        }
        if letter.is_alphanumeric()
            && let Some(last) = parts.last_mut()
        {
            letter.to_lowercase().for_each(|c| fold(c, last));
        }
        before = letter;
    }
    parts.retain(|p| !p.is_empty());
    parts
}

fn fold(letter: char, into: &mut String) {
    match letter {
        'ä' => into.push_str("ae"),
        'ö' => into.push_str("oe"),
        'ü' => into.push_str("ue"),
        'ß' => into.push_str("ss"),
        'à' | 'á' | 'â' | 'ã' | 'å' => into.push('a'),
        'è' | 'é' | 'ê' | 'ë' => into.push('e'),
        'ì' | 'í' | 'î' | 'ï' => into.push('i'),
        'ò' | 'ó' | 'ô' | 'õ' => into.push('o'),
        'ù' | 'ú' | 'û' => into.push('u'),
        'ñ' => into.push('n'),
        'ç' => into.push('c'),
        // A combining accent is no letter of its own.
        '\u{300}'..='\u{36f}' => {}
        other => into.push(other),
    }
}

/// What a table is about: its last word that is not about the table itself.
fn is_about(table: &str, list: &str) -> bool {
    let parts = parts(table);
    let last = parts.iter().rev().find(|p| !p.bytes().all(|b| b.is_ascii_digit()) && !is_wrapping(p)).or(parts.last());
    last.is_some_and(|word| listed(list, word))
}

fn is_wrapping(part: &str) -> bool {
    has(WRAPPING, part) || part.strip_suffix('s').is_some_and(|one| has(WRAPPING, one))
}

fn listed(list: &str, word: &str) -> bool {
    has(list, word) || ["s", "es"].iter().any(|plural| word.strip_suffix(plural).is_some_and(|one| has(list, one)))
}

/// A table about persons.
pub(super) fn is_of_persons(table: &str) -> bool {
    let wrapped = parts(table).last().is_some_and(|last| listed(PERSONS, last));
    wrapped || is_about(table, PERSONS)
}

/// A table about places, organisations or machines.
pub(super) fn is_of_places(table: &str) -> bool {
    is_about(table, PLACES)
}

/// What the name of a column says. The last word wins (`login_ip`), of those that end together the longest (`email_address`).
pub(super) fn of_column(table: &str, column: &str) -> Option<Found> {
    let parts = parts(column);
    for end in (1..=parts.len()).rev() {
        for start in 0..end {
            let Some(found) = lookup(&parts[start..end]) else { continue };
            let means = !found.class.is_empty() && is_of_it(&parts, start, end, found.class);
            let is_alone = || end == parts.len() && parts[..start].iter().all(|p| is_of_table(table, p));
            return match found.says {
                _ if !means => None,
                Says::InPersons if !is_alone() || !is_personal(table, found.class) => continue,
                _ => Some(found),
            };
        }
    }
    None
}

fn is_personal(table: &str, class: &str) -> bool {
    is_of_persons(table) || class == "pii.address" && is_about(table, ADDRESSES)
}

/// The word that these parts make up, with numbers between them or without (`parent_2_phone`).
fn lookup(parts: &[String]) -> Option<Found> {
    let is_number = |part: &&String| part.bytes().all(|b| b.is_ascii_digit());
    let numbered = || parts.len() > 2 && !is_number(&&parts[0]) && parts.last().is_some_and(|p| !is_number(&p));
    lookup_word(&parts.concat()).or_else(|| {
        let words: Vec<&str> = parts.iter().filter(|p| !is_number(p)).map(String::as_str).collect();
        (numbered() && words.len() < parts.len()).then(|| lookup_word(&words.concat())).flatten()
    })
}

fn lookup_word(word: &str) -> Option<Found> {
    let exact = |word: &str| {
        WORDS.iter().find_map(|(class, says, words)| {
            words.split_whitespace().find(|w| *w == word).map(|word| Found { class, word, says: *says })
        })
    };
    /// What is written together with a word often enough.
    const LEADS: &str = "customer user client contact billing shipping home work private primary secondary patient employee \
        emergency kunden personen my second alt new old auth priv";
    let led = || LEADS.split_whitespace().filter_map(|lead| word.strip_prefix(lead)).find_map(exact);
    exact(word).or_else(|| led().filter(|found| found.says == Says::Class && found.word.len() >= 5))
}

/// Whether the parts around a word leave it what it is.
fn is_of_it(parts: &[String], start: usize, end: usize, class: &str) -> bool {
    let is_secret = class.starts_with("secret.");
    let before = |p: &String| !(has(FLAGS, p) || !is_secret && has(THINGS, p));
    parts[..start].iter().all(before) && parts[end..].iter().all(|p| !has(AFTER, p))
}

/// A part that stands before many columns of a table: its name, its beginning (`p_name` of patients), or a word for persons.
fn is_of_table(table: &str, part: &str) -> bool {
    let of_table = self::parts(table).iter().any(|t| t == part || t.strip_suffix('s') == Some(part));
    of_table || part.len() <= 3 && table.to_lowercase().starts_with(part) || has(PERSONS, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        for (name, expected) in [
            ("first_name", "first name"),
            ("homeEmail2", "home email 2"),
            ("IPAddress", "ip address"),
            ("userID", "user id"),
            ("Téléphone", "telephone"),
            ("straße", "strasse"),
            ("__x__", "x"),
            ("", ""),
        ] {
            assert_eq!(parts(name).join(" "), expected);
        }
    }

    #[test]
    fn words_are_whole() {
        let class = |table: &str, column: &str| of_column(table, column).map(|f| f.class);
        for column in [
            "description",
            "sextant",
            "company_plan",
            "shipping_method",
            "recipe",
            "email_sent_at",
            "phone_verified",
            "address_id",
            "is_email",
            "mac_address",
            "company_name",
            "file_name",
            "tokenizer",
            "panel",
            "telemetry",
            "latency",
            "passenger_count",
            "password_changed_at",
            "embargo",
            "contrast",
            "",
            "_",
            "7",
        ] {
            assert_eq!(class("t", column), None, "{column}");
        }
        for (column, expected) in [
            ("login_ip", "pii.ip_address"),
            ("email_address", "pii.email"),
            ("userEmail", "pii.email"),
            ("useremail", "pii.email"),
            ("address1", "pii.address"),
            ("contact_email_2", "pii.email"),
            ("server_password", "secret.password"),
            ("creditCardNumber", "pci.pan"),
            ("Straße", "pii.address"),
        ] {
            assert_eq!(class("t", column), Some(expected), "{column}");
        }
    }

    #[test]
    fn general_words_count_in_tables_about_persons() {
        let class = |table: &str, column: &str| of_column(table, column).map(|f| f.class);
        for table in
            ["customers", "wp_users", "auth_user", "patient_data", "users_backup_2023", "Kunden", "usuarios", "user_profiles"]
        {
            assert_eq!(class(table, "name"), Some("pii.name"), "{table}");
        }
        for table in ["products", "customer_groups", "user_roles", "contact_types", "categories", ""] {
            assert_eq!(class(table, "name"), None, "{table}");
        }
        assert_eq!(class("patient_data", "p_name"), Some("pii.name"));
        assert_eq!(class("users", "city"), Some("pii.address"));
        assert_eq!(class("addresses", "city"), Some("pii.address"));
        assert!(is_of_places("servers") && is_of_places("companies") && !is_of_places("company_users"));
    }
}
